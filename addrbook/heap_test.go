package addrbook

import (
	"slices"
	"testing"
)

type item struct {
	key  int
	heap int32
	list int32
}

// Heap and list against a sorted slice, on random operations.
func TestHeapAndListAgainstSlices(t *testing.T) {
	r := seeded(9)
	h := heap[*item]{before: func(a, b *item) bool { return a.key < b.key }, place: func(i *item) *int32 { return &i.heap }}
	l := list[*item]{place: func(i *item) *int32 { return &i.list }}
	var in, out []*item
	for range 64 {
		out = append(out, &item{heap: -1, list: -1})
	}
	if _, ok := h.top(); ok {
		t.Fatal("an empty heap has a top")
	}
	if _, ok := l.walk(); ok {
		t.Fatal("an empty list has an item")
	}
	h.remove(out[0])
	l.remove(out[0])
	for range 20000 {
		switch x := below(r, 3); {
		case x == 0 && len(out) > 0:
			i := below(r, len(out))
			e := out[i]
			e.key = below(r, 1000)
			out = slices.Delete(out, i, i+1)
			in = append(in, e)
			h.fix(e)
			l.add(e)
			l.add(e)
		case x == 1 && len(in) > 0:
			e := in[below(r, len(in))]
			e.key = below(r, 1000)
			h.fix(e)
		case x == 2 && len(in) > 0:
			i := below(r, len(in))
			e := in[i]
			in = slices.Delete(in, i, i+1)
			out = append(out, e)
			h.remove(e)
			l.remove(e)
			if e.heap != -1 || e.list != -1 {
				t.Fatal("still in")
			}
		}
		if len(h.items) != len(in) || len(l.items) != len(in) {
			t.Fatalf("%d and %d items, want %d", len(h.items), len(l.items), len(in))
		}
		if len(in) == 0 {
			continue
		}
		least := slices.MinFunc(in, func(a, b *item) int { return a.key - b.key })
		if top, _ := h.top(); top.key != least.key {
			t.Fatalf("top %d, want %d", top.key, least.key)
		}
	}
	seen := map[*item]bool{}
	for range l.items {
		e, _ := l.walk()
		seen[e] = true
	}
	if len(seen) != len(in) {
		t.Fatalf("a walk saw %d of %d", len(seen), len(in))
	}
}
