package membership

import (
	"maps"
	"time"
)

const (
	// keepRecords is how long the record of a speaker that is not alive is kept. It has to be there when the speaker is
	// back, so that something older which still travels cannot take its place.
	keepRecords = 10 * time.Minute
	// maxRecords bounds the records of speakers that are not alive.
	maxRecords = 4096
)

// store holds the newest record of every speaker, this one's included, and what each claims.
type store struct {
	self    string
	records map[string]*heardRecord
	tables  map[string]*table // of the others
	bytes   int               // of tables, as chunkCost counts
	pack    *packer           // this speaker's claims
	former  *table            // what former processes of this speaker claimed, until it speaks for itself
	mine    map[uint64]bool   // the epochs of this process
	claimed bool              // whether this process has ever said what it claims
}

// heardRecord is a record and when it was last received.
type heardRecord struct {
	*record
	heard time.Time
}

func newStore(self string, epoch uint64, now time.Time) *store {
	s := &store{
		self: self, records: map[string]*heardRecord{}, tables: map[string]*table{},
		pack: newPacker(self, epoch), former: newTable(), mine: map[uint64]bool{epoch: true},
	}
	s.records[self] = &heardRecord{record: newRecord(self, epoch, 1, Info{}), heard: now}
	return s
}

// own returns this speaker's record.
func (s *store) own() *record { return s.records[s.self].record }

// info returns what the speaker called node last said, and whether it said anything.
func (s *store) info(node string) (Info, bool) {
	e, ok := s.records[node]
	if !ok {
		return Info{}, false
	}
	return e.info, true
}

// setOwn replaces this speaker's Info and reports whether that says anything new.
func (s *store) setOwn(info Info) bool {
	info = info.normalized()
	old := s.own()
	if old.info.Equal(info) {
		return false
	}
	s.records[s.self].record = newRecord(s.self, old.epoch, old.seq+1, info)
	return true
}

// merge takes in a record from the network and reports whether it was news, that is, worth passing on. If it is one of
// this speaker's own, from a former life in which the clock was ahead, the others would ignore everything said now: the
// speaker moves its epoch past it and says again what it has to say.
func (s *store) merge(r *record, now time.Time) bool {
	if r.node == s.self {
		own := s.own()
		if !r.newerThan(own) {
			return false
		}
		s.restart(r.epoch + 1)
		return true
	}
	e, known := s.records[r.node]
	if known && !r.newerThan(e.record) {
		e.heard = now
		return false
	}
	if !known && len(s.records) >= maxRecords {
		return false
	}
	s.records[r.node] = &heardRecord{record: r, heard: now}
	if t := s.tables[r.node]; t != nil && !r.claims && !r.info.Abstains {
		// A speaker of a release that claims nothing has taken over; what another claimed before it is nobody's.
		s.bytes -= t.bytes
		t.void(r.epoch)
		s.bytes += t.bytes
	}
	return true
}

// restart lets this speaker say everything again as of a later epoch.
func (s *store) restart(epoch uint64) {
	s.records[s.self].record = newRecord(s.self, epoch, 1, s.own().info)
	s.mine[epoch] = true
	s.pack.restart(epoch)
}

// expire forgets speakers of which alive says that they are not, and which were last heard of long ago.
func (s *store) expire(alive func(node string) bool, now time.Time) {
	maps.DeleteFunc(s.records, func(node string, e *heardRecord) bool {
		return node != s.self && !alive(node) && now.Sub(e.heard) > keepRecords
	})
	maps.DeleteFunc(s.tables, func(node string, t *table) bool {
		if _, known := s.records[node]; known || alive(node) {
			return false
		}
		s.bytes -= t.bytes
		return true
	})
}
