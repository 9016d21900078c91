package p2ptest

import (
	"github.com/kith-p2p/kith/p2p"
	"github.com/kith-p2p/kith/p2p/memory"
)

// weather is what is wrong with the links, where several faults may have hit one:
// a link is well again when the last of them is over. Run's goroutine owns it.
type weather struct {
	net   *memory.Network
	fair  memory.Link
	links map[way]*troubles
}

// way is a link in one direction.
type way struct{ from, to p2p.NodeID }

// troubles counts the faults of a link.
type troubles struct{ cut, stalled, slow int }

func newWeather(net *memory.Network, fair memory.Link) *weather {
	return &weather{net: net, fair: fair, links: make(map[way]*troubles)}
}

func (w *weather) at(from, to p2p.NodeID) *troubles {
	t := w.links[way{from, to}]
	if t == nil {
		t = &troubles{}
		w.links[way{from, to}] = t
	}
	return t
}

// each brings the same about on several links; the result ends it on all of them.
func (w *weather) each(ways []way, do func(from, to p2p.NodeID) (end func())) (end func()) {
	var ends []func()
	for _, l := range ways {
		ends = append(ends, do(l.from, l.to))
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// cut partitions a link in one direction, stall stops what it carries, slow makes
// it slow; the result ends that again.
func (w *weather) cut(from, to p2p.NodeID) (end func()) {
	t := w.at(from, to)
	t.cut++
	w.net.PartitionOneWay(from, to)
	return func() { t.cut--; w.heal(from, to) }
}

func (w *weather) stall(from, to p2p.NodeID) (end func()) {
	t := w.at(from, to)
	t.stalled++
	w.net.Stall(from, to)
	return func() { t.stalled--; w.heal(from, to) }
}

func (w *weather) slow(from, to p2p.NodeID, is memory.Link) (end func()) {
	t := w.at(from, to)
	t.slow++
	w.net.SetLink(from, to, is)
	return func() {
		if t.slow--; t.slow == 0 {
			w.net.SetLink(from, to, w.fair)
		}
	}
}

// heal ends what is over on a link. The network heals both directions and all
// faults at once, so what goes on is brought about again.
func (w *weather) heal(a, b p2p.NodeID) {
	there, back := w.at(a, b), w.at(b, a)
	w.net.Heal(a, b)
	for _, l := range []struct {
		t        *troubles
		from, to p2p.NodeID
	}{{there, a, b}, {back, b, a}} {
		if l.t.cut > 0 {
			w.net.PartitionOneWay(l.from, l.to)
		}
		if l.t.stalled > 0 {
			w.net.Stall(l.from, l.to)
		}
	}
}
