// Package transport owns the TCP connections to routers: it dials and accepts
// them with their source address, device, TCP MD5 key and TTL (RFC 2385, RFC
// 5082), and relays messages between a router and the BGP engine, which sees
// only a loopback connection. The relay lets as little as possible come in: a
// router's UPDATEs end here unread, whatever else passes is parsed by package
// wire and written anew, so that no byte of a stranger's reaches the engine's
// decoder as the stranger wrote it.
package transport
