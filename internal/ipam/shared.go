package ipam

import "slices"

// shared is what a holding has more if its owners have a sharing key. All of them have the same key and backend.
type shared struct {
	owners []*allocation
	inline [1]*allocation // backs owners while there is one
	// ports are those of all owners, by port. It is nil while there is one owner, who has them in this order too.
	ports []portUse
	// groups are by scope where newcomers find the address; nil in those in which they may not share it, in all while it
	// is out of pool.
	groups [2]*group
	mixed  bool  // owners are of several namespaces
	closed int32 // how many owners are of a namespace that does not allow sharing with others
}

type portUse struct {
	port Port
	user *allocation
}

func newShared() *shared {
	s := new(shared)
	s.owners = s.inline[:0]
	return s
}

// user returns who uses a port, or nil.
func (s *shared) user(p Port) *allocation {
	if len(s.owners) == 1 {
		if _, ok := slices.BinarySearchFunc(s.owners[0].sharing.Ports, p, Port.compare); ok {
			return s.owners[0]
		}
		return nil
	}
	if i, ok := s.find(p); ok {
		return s.ports[i].user
	}
	return nil
}

func (s *shared) find(p Port) (int, bool) {
	return slices.BinarySearchFunc(s.ports, p, func(u portUse, p Port) int { return u.port.compare(p) })
}

func (s *shared) add(al *allocation) {
	s.owners = append(s.owners, al)
	if !al.sharing.AcrossNamespaces {
		s.closed++
	}
	switch len(s.owners) {
	case 1:
		return
	case 2:
		s.addPorts(s.owners[0])
	}
	s.addPorts(al)
	s.mixed = s.mixed || al.owner.Namespace != s.owners[0].owner.Namespace
}

func (s *shared) addPorts(al *allocation) {
	for _, p := range al.sharing.Ports {
		i, _ := s.find(p)
		s.ports = slices.Insert(s.ports, i, portUse{p, al})
	}
}

// remove undoes add for one of several owners.
func (s *shared) remove(al *allocation) {
	i := slices.Index(s.owners, al)
	s.owners = slices.Delete(s.owners, i, i+1)
	if !al.sharing.AcrossNamespaces {
		s.closed--
	}
	if len(s.owners) == 1 {
		s.ports, s.mixed = nil, false
		return
	}
	for _, p := range al.sharing.Ports {
		i, _ := s.find(p)
		s.ports = slices.Delete(s.ports, i, i+1)
	}
	s.mixed = s.mixed && slices.ContainsFunc(s.owners, func(o *allocation) bool {
		return o.owner.Namespace != s.owners[0].owner.Namespace
	})
}

// each calls f for every port in use.
func (s *shared) each(f func(Port)) {
	for _, al := range s.owners {
		for _, p := range al.sharing.Ports {
			f(p)
		}
	}
}
