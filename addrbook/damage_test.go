package addrbook

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// specimen is a small book in a file, with all that was ever written to it.
type specimen struct {
	before, good, copied []byte                     // the file before the last save, after it, and its copy
	last, acknowledged   map[string]string          // the rows after the last save, and before it
	ever                 map[string]map[string]bool // every value that a row ever had
	opened               atomic.Bool                // a book was opened on the last rows
}

// witness notes what goes into a store.
type witness struct {
	*FileStore
	ever map[string]map[string]bool
}

func (w *witness) Save(cs []Change) error {
	for _, c := range cs {
		if w.ever[c.Key] == nil {
			w.ever[c.Key] = map[string]bool{}
		}
		w.ever[c.Key][string(c.Value)] = true
	}
	return w.FileStore.Save(cs)
}

func newSpecimen(t *testing.T, entries int) *specimen {
	t.Helper()
	path := filepath.Join(t.TempDir(), "book.db")
	w := &witness{openFile(t, path), map[string]map[string]bool{}}
	b, err := Open(w, Options{Rand: seeded(1), WriteDelay: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	sp := &specimen{ever: w.ever}
	read := func(p string) []byte {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for round := range 4 {
		for n := range entries {
			if n%4 <= round {
				a := at(n, global(n<<14).String())
				b.Add(a, pex(n%9, global(n<<15|1).String()))
				if n%3 == round {
					b.Good(a)
				}
				b.Adjust(id(n), round+1)
			}
		}
		if round == 3 {
			sp.before = read(path)
			sp.acknowledged, _ = dump(t, w)
		}
		if err := b.Ban(id(5000+round), 0, "spam"); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			if err := w.s.Backup(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(b.Close()); err != nil {
		t.Fatal(err)
	}
	sp.last, _ = dump(t, w)
	w.Close()
	sp.good, sp.copied = trim(read(path)), trim(read(path+".backup"))
	return sp
}

// trim cuts off the pages that a bbolt file has and has never used, so that
// damage hits something.
func trim(file []byte) []byte {
	page, pages, newest := os.Getpagesize(), uint64(0), uint64(0)
	for head := 16; head < 2*page; head += page {
		if tx := binary.NativeEndian.Uint64(file[head+48:]); tx >= newest {
			newest, pages = tx, binary.NativeEndian.Uint64(file[head+40:])
		}
	}
	return file[:int(pages)*page]
}

// scratch is a directory in memory where there is one: the sweeps sync tens of
// thousands of times, and what they test is not the disk.
func scratch(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "kith-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// try opens a book on a damaged file. Whatever it serves was written once, and
// when it is not all of the last state, it says so.
func (sp *specimen) try(dir string, data, backup []byte) (noticed bool, err error) {
	path := filepath.Join(dir, "book.db")
	if files, _ := filepath.Glob(path + "*"); len(files) != 2 { // else a try before has left the copy as it was
		os.RemoveAll(dir)
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(path, data, 0o600)); err != nil {
		return false, err
	}
	if have, err := os.ReadFile(path + ".backup"); err != nil || !bytes.Equal(have, backup) {
		if err := os.WriteFile(path+".backup", backup, 0o600); err != nil {
			return false, err
		}
	}
	s, err := OpenStore(path)
	if err != nil {
		return false, fmt.Errorf("the store does not open: %w", err)
	}
	defer s.Close()
	rows := map[string]string{}
	notices, err := s.Load(func(key string, value []byte) { rows[key] = string(value) })
	if err != nil {
		return false, fmt.Errorf("the store cannot be read: %w", err)
	}
	for key, value := range rows {
		if !sp.ever[key][value] {
			return false, fmt.Errorf("row %q was never written: %q", key, value)
		}
	}
	if len(notices) == 0 && !maps.Equal(rows, sp.last) {
		return false, fmt.Errorf("%d rows of %d, or old ones, and nothing is said", len(rows), len(sp.last))
	}
	if kept, _ := filepath.Glob(path + ".damaged-*"); strings.Contains(strings.Join(notices, ""), "is kept as") != (len(kept) > 0) {
		return false, fmt.Errorf("%q, and kept is %q", notices, kept)
	}
	if maps.Equal(rows, sp.last) && len(notices) == 0 && sp.opened.Swap(true) {
		return false, nil // a book was opened on exactly these rows
	}
	b, err := Open(s, Options{})
	if err != nil {
		return false, fmt.Errorf("the book does not open: %w", err)
	}
	if n := b.Stats().Addresses; n != strings.Count(strings.Join(slices.Collect(maps.Keys(rows)), "\n"), "amconn:") {
		return false, fmt.Errorf("%d addresses", n)
	}
	return len(notices) > 0, b.Close()
}

// sweep tries all damages, on all processors.
func (sp *specimen) sweep(t *testing.T, n int, damage func(i int) (name string, data, backup []byte)) (noticed int) {
	t.Helper()
	var next, count atomic.Int64
	var wg sync.WaitGroup
	base := scratch(t)
	for worker := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			dir := filepath.Join(base, fmt.Sprint(worker))
			for i := int(next.Add(1)) - 1; i < n && !t.Failed(); i = int(next.Add(1)) - 1 {
				name, data, backup := damage(i)
				said, err := sp.try(dir, data, backup)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if said {
					count.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(count.Load())
}

// Single bits of the file, spread evenly over all of it: the process never dies,
// and no damage is silent. With KITH_FLIPS=all, which "make race" sets, there are
// 32,768 of them; otherwise a sample, with at least 64 in every page.
func TestFlippedBits(t *testing.T) {
	sp := newSpecimen(t, 25)
	const all = 32768
	flips := all
	if os.Getenv("KITH_FLIPS") != "all" {
		flips = max(4096, 64*len(sp.good)/os.Getpagesize())
	}
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	bits := make([]int, flips)
	for i := range bits { // one in each of so many stretches of equal length
		size := 8 * len(sp.good)
		from, to := i*size/flips, (i+1)*size/flips
		bits[i] = from + r.IntN(max(1, to-from))
	}
	n := sp.sweep(t, flips, func(i int) (string, []byte, []byte) {
		data := bytes.Clone(sp.good)
		data[bits[i]/8] ^= 1 << (bits[i] % 8)
		return fmt.Sprintf("seed %d, bit %d", seed, bits[i]), data, sp.copied
	})
	t.Logf("%d flips in a file of %d bytes: %d noticed and reported, the others in unused space", flips, len(sp.good), n)
	if n < flips/10 {
		t.Errorf("only %d of %d flips were noticed", n, flips)
	}
}

// Cut at every page, and within every page; the file empty; and the copy cut
// as well, or empty.
func TestTruncatedFile(t *testing.T) {
	sp := newSpecimen(t, 200)
	page := os.Getpagesize()
	type cut struct{ main, backup int }
	cuts := []cut{{0, len(sp.copied)}, {0, 0}, {len(sp.good) / 2, 0}, {0, len(sp.copied) / 2}}
	for at := 1; at < len(sp.good); at += page / 4 {
		cuts = append(cuts, cut{at, len(sp.copied)})
	}
	for at := page; at < len(sp.good); at += page {
		cuts = append(cuts, cut{at, len(sp.copied)}, cut{at, min(at, len(sp.copied)-1)})
	}
	n := sp.sweep(t, len(cuts), func(i int) (string, []byte, []byte) {
		return fmt.Sprintf("cut %v of %d and %d", cuts[i], len(sp.good), len(sp.copied)), sp.good[:cuts[i].main], sp.copied[:cuts[i].backup]
	})
	t.Logf("%d cuts of %d bytes, %d reported", len(cuts), len(sp.good), n)
	if n < len(cuts) {
		t.Errorf("%d of %d cuts were noticed", n, len(cuts))
	}
}

// Both the file and its copy damaged at random places, many bits each.
func TestFileAndCopyDamaged(t *testing.T) {
	sp := newSpecimen(t, 60)
	seed := uint64(time.Now().UnixNano())
	n := sp.sweep(t, 400, func(i int) (string, []byte, []byte) {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		data, backup := bytes.Clone(sp.good), bytes.Clone(sp.copied)
		for _, b := range [][]byte{data, backup} {
			for range 1 + r.IntN(40) {
				b[r.IntN(len(b))] = byte(r.Uint32())
			}
		}
		return fmt.Sprintf("seed %d, %d", seed, i), data, backup
	})
	t.Logf("%d of 400 reported", n)
}

// TestKilledAtEveryStep plays the last save again, write by write, as bbolt
// makes it: the file grows, then its pages are written in order, then its head.
// A process killed after any of these, or in the middle of one, has lost
// nothing that was acknowledged, and what was not is there whole or not at all.
func TestKilledAtEveryStep(t *testing.T) {
	sp := newSpecimen(t, 200)
	page := os.Getpagesize()
	file := bytes.Clone(sp.before)
	dir := filepath.Join(t.TempDir(), "x")
	steps := 0
	check := func(name string, done bool) {
		t.Helper()
		steps++
		os.RemoveAll(dir)
		path := filepath.Join(dir, "book.db")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(path, file, 0o600), os.WriteFile(path+".backup", sp.copied, 0o600)); err != nil {
			t.Fatal(err)
		}
		s, err := OpenStore(path)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer s.Close()
		rows, notices := dump(t, s)
		want := sp.acknowledged
		if done {
			want = sp.last
		}
		if !maps.Equal(rows, want) || len(notices) > 0 {
			t.Fatalf("%s: %d rows, want %d; %q", name, len(rows), len(want), notices)
		}
	}
	check("before", false)
	if grow := len(sp.good) - len(file); grow <= 0 {
		file = file[:len(sp.good)]
	} else {
		file = append(file, make([]byte, grow)...)
		check("grown", false)
	}
	var heads []int
	for at := 0; at < len(sp.good); at += page {
		if bytes.Equal(file[at:at+page], sp.good[at:at+page]) {
			continue
		}
		if at < 2*page {
			heads = append(heads, at)
			continue
		}
		copy(file[at:at+page/2], sp.good[at:])
		check(fmt.Sprintf("half of page %d", at/page), false)
		copy(file[at:at+page], sp.good[at:])
		check(fmt.Sprintf("page %d", at/page), false)
	}
	if len(heads) != 1 {
		t.Fatalf("heads at %v", heads)
	}
	copy(file[heads[0]:], sp.good[heads[0]:heads[0]+page])
	check("head", true)
	if steps < 6 {
		t.Fatalf("%d steps", steps)
	}
	t.Logf("%d steps", steps)
}
