package transport

import (
	"bytes"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/berth-lb/berth/internal/bgp/wire"
)

// heap returns the bytes in use after a collection, and all that were ever
// allocated.
func heap() (inUse, ever uint64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, m.TotalAlloc
}

// A router that sends 200,000 prefixes, in as many messages or packed, costs no
// memory, and the engine some keepalives. It is not parallel, for it measures.
func TestFloodCostsNoMemory(t *testing.T) {
	var single, packed []byte
	body := []byte{0, 0, 0, 0}
	for i := range 1000 {
		single = append(single, update(0, 0, 0, 0, 32, 10, 0, byte(i>>8), byte(i))...)
		if body = append(body, 32, 10, 0, byte(i>>8), byte(i)); len(body) > wire.MaxLen-wire.HeaderLen-5 || i == 999 {
			packed = append(packed, update(body...)...)
			body = body[:4]
		}
	}
	for name, thousand := range map[string][]byte{"one by one": single, "packed": packed} {
		t.Run(name, func(t *testing.T) { flood(t, thousand) })
	}
}

func flood(t *testing.T, thousand []byte) {
	r := newRig(t, nil)
	r.establish()
	read := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, r.engine.conn)
		read <- n
	}()
	const rounds = 200
	updates := uint64(bytes.Count(thousand, bytes.Repeat([]byte{0xff}, 16))) * rounds
	start := time.Now()
	before, everBefore := heap()
	for range rounds {
		if _, err := r.router.conn.Write(thousand); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all updates", func() bool { return r.relay.Session().Received.Update == updates })
	took := time.Since(start)
	after, ever := heap()
	t.Logf("%d prefixes in %d messages, %d bytes: %s; heap grew by %d bytes, %d were allocated",
		rounds*1000, updates, rounds*len(thousand), took, int64(after)-int64(before), ever-everBefore)
	if after > before+100<<10 {
		t.Errorf("heap grew from %d to %d bytes", before, after)
	}
	// Polling above allocates too.
	if ever-everBefore > 1<<20 {
		t.Errorf("%d bytes were allocated on the way", ever-everBefore)
	}
	r.cancel()
	_ = r.wait()
	if n, most := <-read, int64(wire.HeaderLen)*int64(2+took/keepaliveInterval); n > most {
		t.Errorf("engine got %d bytes, more than %d", n, most)
	}
}
