package dispatch

// fifo is a queue in a ring that doubles when full, and gives its memory back
// when it is empty after a burst. The zero value is empty. Not safe for concurrent
// use.
type fifo[T any] struct {
	buf  []T // length is a power of two, or 0
	head int
	n    int
}

// fifoKeep is the length of ring that an empty fifo keeps.
const fifoKeep = 1024

func (f *fifo[T]) len() int { return f.n }

// at is the element i places behind the front.
func (f *fifo[T]) at(i int) *T { return &f.buf[(f.head+i)&(len(f.buf)-1)] }

func (f *fifo[T]) push(v T) {
	if f.n == len(f.buf) {
		buf := make([]T, max(8, 2*len(f.buf)))
		n := copy(buf, f.buf[f.head:])
		copy(buf[n:], f.buf[:f.head])
		f.buf, f.head = buf, 0
	}
	f.n++
	*f.at(f.n - 1) = v
}

// pop takes the front, which there is.
func (f *fifo[T]) pop() (v T) {
	var zero T
	v, *f.at(0) = *f.at(0), zero
	f.head = (f.head + 1) & (len(f.buf) - 1)
	f.shrunk()
	return v
}

// popBack takes the last, which there is.
func (f *fifo[T]) popBack() (v T) {
	var zero T
	v, *f.at(f.n - 1) = *f.at(f.n - 1), zero
	f.shrunk()
	return v
}

// remove takes out the element i places behind the front.
func (f *fifo[T]) remove(i int) {
	for ; i < f.n-1; i++ {
		*f.at(i) = *f.at(i + 1)
	}
	f.popBack()
}

func (f *fifo[T]) shrunk() {
	if f.n--; f.n == 0 && len(f.buf) > fifoKeep {
		f.buf, f.head = nil, 0
	}
}
