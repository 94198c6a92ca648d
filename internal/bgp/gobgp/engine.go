package gobgp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/go-kit/log"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/config/oc"
	"github.com/osrg/gobgp/v3/pkg/server"

	"github.com/berth-lb/berth/internal/bgp"
)

const (
	// loopback is where the transport's end of the connection is for GoBGP.
	loopback  = "127.0.0.1"
	prefix    = loopback + "/32"
	groupName = "router"
)

// engineConfig is what a session has come to once both OPEN messages are known.
type engineConfig struct {
	localASN, remoteASN uint32
	routerID            netip.Addr
	families            []bgp.Family
	// holdTime is the negotiated one.
	holdTime, keepaliveTime time.Duration
	// endOfRIB asks for the marker after all routes (RFC 4724 section 2).
	endOfRIB bool
	nextHops nextHops
	logger   log.Logger
}

// An engine is a GoBGP server with one peer, for one session.
type engine struct {
	server  *server.BgpServer
	paths   pathMaker
	conn    *net.TCPConn
	accept  chan *net.TCPConn
	serving sync.WaitGroup
	// connected tells that the server was given conn, leave that it is to end.
	connected bool
	leave     atomic.Bool
	// lost is closed when the session has ended, freed when a deleted peer's
	// goroutines have.
	lost, freed chan struct{}

	// reading tells that the server's goroutine holds selection for reading.
	reading bool
}

// GoBGP keeps its route selection options in variables of a package: StartBgp
// of one server writes what all others read. They always hold the same, but the
// accesses have to be ordered. Those that an API call leads to are ordered by
// calls, which its caller holds; those that a new session leads to by selection,
// which the server's own goroutine takes through its hooks. The two are apart
// because a caller waits for the server's goroutine; calls is taken first.
var calls, selection sync.RWMutex

// startEngine returns an engine that begins a session on conn, the engine's end
// of a loopback connection, once it knows all routes. It closes conn at the end,
// and if it fails.
func startEngine(cfg engineConfig, routes bgp.Routes, conn *net.TCPConn) (*engine, error) {
	e := &engine{
		conn:   conn,
		paths:  pathMaker{internal: cfg.localASN == cfg.remoteASN, asn: cfg.localASN, nextHops: cfg.nextHops},
		accept: make(chan *net.TCPConn, 1),
		lost:   make(chan struct{}),
		freed:  make(chan struct{}),
	}
	hooks := &hooks{engine: e, logger: cfg.logger}
	e.server = server.NewBgpServer(server.LoggerOption(hooks), server.TimingHookOption(hooks))
	if err := setAccept(e.server, e.accept); err != nil {
		_ = conn.Close()
		return nil, err
	}
	e.serving.Go(e.server.Serve)
	if err := e.configure(cfg); err != nil {
		e.stop()
		return nil, fmt.Errorf("configuring the BGP engine: %w", err)
	}
	for _, route := range routes {
		if err := e.announce(route); err != nil {
			e.stop()
			return nil, err
		}
	}
	e.connected = true
	e.accept <- conn
	return e, nil
}

// setAccept gives the server a channel to take connections from. There is no
// other way to hand one over: GoBGP otherwise listens on a port that everybody
// on the node can reach, or dials after a second or two. It has to be called
// before Serve.
func setAccept(s *server.BgpServer, accept chan *net.TCPConn) error {
	field := reflect.ValueOf(s).Elem().FieldByName("acceptCh")
	if !field.IsValid() || field.Type() != reflect.TypeFor[chan *net.TCPConn]() {
		return fmt.Errorf("this version of GoBGP has no BgpServer.acceptCh")
	}
	*(*chan *net.TCPConn)(unsafe.Pointer(field.UnsafeAddr())) = accept
	return nil
}

// configure tells the server of itself and of the peer that will connect. The
// peer is a "dynamic neighbour" of GoBGP's because those are ready for their
// connection at once.
func (e *engine) configure(cfg engineConfig) error {
	ctx := context.Background()
	global := &api.Global{Asn: cfg.localASN, RouterId: cfg.routerID.String(), ListenPort: -1, ListenAddresses: []string{loopback}}
	group := &api.PeerGroup{
		Conf:   &api.PeerGroupConf{PeerGroupName: groupName, LocalAsn: cfg.localASN, PeerAsn: cfg.remoteASN},
		Timers: &api.Timers{Config: &api.TimersConfig{HoldTime: uint64(cfg.holdTime.Seconds()), KeepaliveInterval: uint64(cfg.keepaliveTime.Seconds())}},
		GracefulRestart: &api.GracefulRestart{
			Enabled: cfg.endOfRIB, RestartTime: 1,
		},
		Transport: &api.Transport{PassiveMode: true, LocalAddress: loopback},
	}
	for _, family := range cfg.families {
		global.Families = append(global.Families, uint32(afiSafiTypes[family].ToInt()))
		group.AfiSafis = append(group.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: apiFamily(family), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: cfg.endOfRIB}},
		})
	}
	if err := e.startBGP(ctx, global); err != nil {
		return err
	}
	if err := e.server.AddPeerGroup(ctx, &api.AddPeerGroupRequest{PeerGroup: group}); err != nil {
		return err
	}
	return e.server.AddDynamicNeighbor(ctx, &api.AddDynamicNeighborRequest{
		DynamicNeighbor: &api.DynamicNeighbor{Prefix: prefix, PeerGroup: groupName},
	})
}

var afiSafiTypes = map[bgp.Family]oc.AfiSafiType{
	bgp.IPv4: oc.AFI_SAFI_TYPE_IPV4_UNICAST, bgp.IPv6: oc.AFI_SAFI_TYPE_IPV6_UNICAST,
}

func apiFamily(f bgp.Family) *api.Family {
	if f == bgp.IPv6 {
		return &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
	}
	return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
}

func (e *engine) startBGP(ctx context.Context, global *api.Global) error {
	calls.Lock()
	defer calls.Unlock()
	selection.Lock()
	defer selection.Unlock()
	return e.server.StartBgp(ctx, &api.StartBgpRequest{Global: global})
}

// announce tells the peer of a route, now or as soon as the session is up.
func (e *engine) announce(route bgp.Route) error {
	path, err := e.paths.path(route)
	if err != nil {
		return err
	}
	calls.RLock()
	defer calls.RUnlock()
	if _, err := e.server.AddPath(context.Background(), &api.AddPathRequest{Path: path}); err != nil {
		return fmt.Errorf("announcing %s: %w", route.Prefix, err)
	}
	return nil
}

// withdraw takes a route back.
func (e *engine) withdraw(prefix netip.Prefix) error {
	path, err := e.paths.withdrawal(prefix)
	if err != nil {
		return err
	}
	calls.RLock()
	defer calls.RUnlock()
	if err := e.server.DeletePath(context.Background(), &api.DeletePathRequest{Path: path}); err != nil {
		return fmt.Errorf("withdrawing %s: %w", prefix, err)
	}
	return nil
}

// refresh announces all routes again (RFC 2918).
func (e *engine) refresh() error {
	calls.RLock()
	defer calls.RUnlock()
	return e.server.ResetPeer(context.Background(), &api.ResetPeerRequest{
		Address: loopback, Soft: true, Direction: api.ResetPeerRequest_OUT,
	})
}

// stop ends the server and all of its goroutines, and closes the connection. It
// may be called once. It lets the session end by itself first, because GoBGP
// leaks a goroutine when a peer is deleted while it takes up a message, and does
// without StopBgp, which clears what the peer's goroutines may still read.
func (e *engine) stop() {
	ctx := context.Background()
	_ = e.conn.Close()
	if e.connected {
		<-e.lost
		// So that the connection that follows is nobody's.
		_ = e.server.DeleteDynamicNeighbor(ctx, &api.DeleteDynamicNeighborRequest{Prefix: prefix, PeerGroup: groupName})
		if e.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: loopback}) == nil {
			<-e.freed
		}
	}
	e.leave.Store(true)
	e.accept <- e.conn
	e.serving.Wait()
}

// done is called by the server's goroutine after each thing that it has done. A
// GoBGP server has no end of its own; it is made to leave after it was handed a
// connection, because nobody waits for an answer then.
func (e *engine) done(op server.FSMOperation) {
	if e.reading {
		e.reading = false
		selection.RUnlock()
	}
	if op == server.FSMAccept && e.leave.Load() {
		runtime.Goexit()
	}
}

// establishing is called by the server's goroutine when the session is up, right
// before it looks up what to announce.
func (e *engine) establishing() {
	if !e.reading {
		selection.RLock()
		e.reading = true
	}
}
