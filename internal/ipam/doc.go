// Package ipam decides which Service has which address. It is a pure state machine over plain values: a caller
// describes the pools (SetPools) and reservations (SetReservations), tells what is already assigned (Restore), what
// others have (SetQuarantine) and what time it is (Expire), and asks for addresses (Allocate) or gives them up (Release); the package holds who has what,
// never moves an address that its owner did not ask to move, and explains every refusal in a typed error. Pools are kept
// as sets of free intervals, so that the cost of an operation grows with the logarithm of what is allocated and not at
// all with the size of the pool or of a reservation. There are no locks, clocks or I/O: one goroutine drives an
// Allocator.
package ipam
