package addrbook

// heap is a binary heap whose elements know their place in it, so that any of
// them can be moved or taken out in O(log n). The place is -1 outside.
type heap[T any] struct {
	items  []T
	before func(a, b T) bool
	place  func(T) *int32
}

func (h *heap[T]) top() (item T, ok bool) {
	if len(h.items) == 0 {
		return item, false
	}
	return h.items[0], true
}

// fix puts an item in, or back in order after its key changed.
func (h *heap[T]) fix(item T) {
	at := h.place(item)
	if *at < 0 {
		*at = int32(len(h.items))
		h.items = append(h.items, item)
	}
	h.down(h.up(int(*at)))
}

// remove takes an item out, if it is in.
func (h *heap[T]) remove(item T) {
	at := h.place(item)
	i := int(*at)
	if i < 0 {
		return
	}
	last := len(h.items) - 1
	h.swap(i, last)
	var zero T
	h.items[last] = zero
	h.items = h.items[:last]
	*at = -1
	if i < last {
		h.down(h.up(i))
	}
}

func (h *heap[T]) up(i int) int {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.before(h.items[i], h.items[parent]) {
			break
		}
		h.swap(i, parent)
		i = parent
	}
	return i
}

func (h *heap[T]) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			return
		}
		if right := child + 1; right < len(h.items) && h.before(h.items[right], h.items[child]) {
			child = right
		}
		if !h.before(h.items[child], h.items[i]) {
			return
		}
		h.swap(i, child)
		i = child
	}
}

func (h *heap[T]) swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	*h.place(h.items[i]), *h.place(h.items[j]) = int32(i), int32(j)
}

// list is an unordered slice whose elements know their place in it.
type list[T any] struct {
	items []T
	place func(T) *int32
	next  int // where walk goes on
}

func (l *list[T]) add(item T) {
	if at := l.place(item); *at < 0 {
		*at = int32(len(l.items))
		l.items = append(l.items, item)
	}
}

func (l *list[T]) remove(item T) {
	at := l.place(item)
	if *at < 0 {
		return
	}
	last := len(l.items) - 1
	l.swap(int(*at), last)
	var zero T
	l.items[last] = zero
	l.items = l.items[:last]
	*at = -1
}

func (l *list[T]) swap(i, j int) {
	l.items[i], l.items[j] = l.items[j], l.items[i]
	*l.place(l.items[i]), *l.place(l.items[j]) = int32(i), int32(j)
}

// walk returns one item after the other, round and round.
func (l *list[T]) walk() (item T, ok bool) {
	if len(l.items) == 0 {
		return item, false
	}
	l.next++
	if l.next >= len(l.items) {
		l.next = 0
	}
	return l.items[l.next], true
}
