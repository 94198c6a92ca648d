package membership

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

const (
	// keepRecords is how long the record of a speaker that is not alive is kept. It has to be there when the speaker is
	// back, so that something older which still travels cannot take its place.
	keepRecords = 10 * time.Minute
	// maxRecords bounds the records of speakers that are not alive.
	maxRecords = 4096
)

// store holds the newest record of every speaker, this one's included.
type store struct {
	self    string
	records map[string]*entry
}

type entry struct {
	*record
	heard time.Time
}

func newStore(self string, epoch uint64, now time.Time) *store {
	s := &store{self: self, records: map[string]*entry{}}
	s.records[self] = &entry{record: newRecord(self, epoch, 1, Info{}), heard: now}
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
		s.records[s.self].record = newRecord(s.self, r.epoch+1, 1, own.info)
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
	s.records[r.node] = &entry{record: r, heard: now}
	return true
}

// expire forgets speakers that are not alive and were last heard of long ago.
func (s *store) expire(alive func(node string) bool, now time.Time) {
	maps.DeleteFunc(s.records, func(node string, e *entry) bool {
		return node != s.self && !alive(node) && now.Sub(e.heard) > keepRecords
	})
}

// all returns every record, in a fixed order.
func (s *store) all() []*record {
	all := make([]*record, 0, len(s.records))
	for _, e := range s.records {
		all = append(all, e.record)
	}
	slices.SortFunc(all, func(a, b *record) int { return cmp.Compare(a.node, b.node) })
	return all
}
