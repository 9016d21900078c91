package addrbook

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kith-p2p/kith/internal/state"
)

// dump is all rows of a store.
func dump(t testing.TB, s Store) (map[string]string, []string) {
	t.Helper()
	all := map[string]string{}
	notices, err := s.Load(func(key string, value []byte) { all[key] = string(value) })
	if err != nil {
		t.Fatal(err)
	}
	return all, notices
}

func openFile(t testing.TB, path string) *FileStore {
	t.Helper()
	s, err := OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// One body for all stores.
func TestStores(t *testing.T) {
	for name, make := range map[string]func(t *testing.T) (s Store, reopen func() Store){
		"memory": func(t *testing.T) (Store, func() Store) {
			s := NewMemoryStore()
			return s, func() Store { return s }
		},
		"file": func(t *testing.T) (Store, func() Store) {
			path := filepath.Join(t.TempDir(), "book.db")
			s := openFile(t, path)
			return s, func() Store { s.Close(); s = openFile(t, path); return s }
		},
		"state": func(t *testing.T) (Store, func() Store) {
			dir := t.TempDir()
			s, err := state.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return NewStateStore(s.Bucket("book")), func() Store {
				s.Close()
				if s, err = state.Open(dir); err != nil {
					t.Fatal(err)
				}
				return NewStateStore(s.Bucket("book"))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, reopen := make(t)
			if rows, _ := dump(t, s); len(rows) != 0 {
				t.Fatal(rows)
			}
			value := []byte("2")
			if err := s.Save([]Change{{"b", value}, {"a", []byte("1")}, {"c", []byte{}}, {"never", nil}}); err != nil {
				t.Fatal(err)
			}
			value[0] = '?'
			if err := s.Save([]Change{{"a", nil}, {"d", []byte("4")}}); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"b": "2", "c": "", "d": "4"}
			if rows, notices := dump(t, s); !reflect.DeepEqual(rows, want) || len(notices) != 0 {
				t.Fatalf("%q %q", rows, notices)
			}
			s = reopen()
			if rows, _ := dump(t, s); !reflect.DeepEqual(rows, want) {
				t.Fatalf("%q", rows)
			}
			// A whole book, closed and opened again.
			clk := newClock()
			o := Options{Now: clk.now, Rand: seeded(1), NewBuckets: 8}
			b, err := Open(s, o)
			if err != nil {
				t.Fatal(err)
			}
			for n := range 100 {
				b.Add(at(n, global(n<<14).String()), pex(n%7, global(n<<16|1).String()))
				if n%3 == 0 {
					b.Good(at(n, global(n<<14).String()))
				}
			}
			if err := b.Ban(id(5), time.Hour, "spam"); err != nil {
				t.Fatal(err)
			}
			b.Adjust(id(6), -3)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			before := remembered(b)
			b = open(t, reopen(), o)
			if after := remembered(b); !reflect.DeepEqual(before, after) {
				t.Fatalf("was\n%v\nis\n%v", before, after)
			}
			b.Close()
		})
	}
}

func TestFileStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "book.db")
	s := openFile(t, path)
	if _, err := OpenStore(path); !errors.Is(err, state.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Fatal(err)
	}
	// Once a day a save is followed by a copy.
	if err := s.Save([]Change{{"a", []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	os.Remove(path + ".backup")
	if err := s.Save([]Change{{"b", []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".backup"); err == nil {
		t.Fatal("a copy too early")
	}
	s.copied.Store(time.Now().Add(-25 * time.Hour).UnixNano())
	if err := s.Save([]Change{{"c", []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".backup"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Save([]Change{{"c", []byte("1")}}); !errors.Is(err, state.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := s.Load(func(string, []byte) {}); !errors.Is(err, state.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := OpenStore(filepath.Join(path, "not a directory", "x")); err == nil {
		t.Fatal("opened")
	}
	// A file that is nothing at all: kept aside, and said so by the book.
	if err := os.WriteFile(path, []byte(strings.Repeat("nonsense", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openFile(t, path)
	b := open(t, s, Options{})
	if n := strings.Join(b.Notices(), "\n"); !strings.Contains(n, "is kept as "+path+".damaged-") || !strings.Contains(n, "took its place") {
		t.Fatalf("%q", n)
	}
	b.Close()
}

// writer is what runs in the process that is killed: a book in a file, which
// says after each ban, and after each Flush, what it promised.
func writeUntilKilled(path string) {
	s, err := OpenStore(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	b, err := Open(s, Options{WriteDelay: time.Millisecond})
	if err != nil || len(b.Notices()) > 0 {
		fmt.Println(err, b.Notices())
		os.Exit(1)
	}
	for n := len(b.Bans()); ; n++ {
		a := at(n, global(n<<14).String())
		b.Add(a, Source{Kind: Manual})
		b.Good(a)
		b.Adjust(id(n), -n-1)
		if err := b.Ban(id(1_000_000+n), 0, fmt.Sprint("reason ", n)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("saved", n)
	}
}

// TestKilledAtAnyMoment kills a process that writes, again and again, at
// moments spread over its cycle of write and sync: whatever it said to be saved
// must be there, and the next one goes on in the same file.
func TestKilledAtAnyMoment(t *testing.T) {
	if path := os.Getenv("KITH_BOOK_WRITER"); path != "" {
		writeUntilKilled(path)
	}
	path := filepath.Join(t.TempDir(), "book.db")
	said := -1
	const kills = 60
	for round := range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyMoment$")
		cmd.Env = append(os.Environ(), "KITH_BOOK_WRITER="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 3 + round%5 {
			if !lines.Scan() {
				t.Fatal("the writer ended")
			}
			if _, err := fmt.Sscanf(lines.Text(), "saved %d", &said); err != nil {
				t.Fatal(lines.Text())
			}
		}
		for start := time.Now(); time.Since(start) < time.Duration(round)*37*time.Microsecond; { // somewhere in the next writes
		}
		cmd.Process.Kill()
		for lines.Scan() { // what it said before it died counts
			if _, err := fmt.Sscanf(lines.Text(), "saved %d", &said); err != nil {
				t.Fatal(lines.Text())
			}
		}
		cmd.Wait()

		s := openFile(t, path)
		b := open(t, s, Options{})
		if n := b.Notices(); len(n) > 0 {
			t.Fatalf("round %d: %q", round, n)
		}
		for n := range said + 1 {
			a := at(n, global(n<<14).String())
			ban, ok := b.Banned(id(1_000_000 + n))
			e, known := b.Entry(a)
			if !ok || ban.Reason != fmt.Sprint("reason ", n) || !known || !e.Verified || b.Score(id(n)) >= 0 {
				t.Fatalf("round %d: %d of %d was said to be saved: ban %v, entry %+v, score %d", round, n, said, ban, e, b.Score(id(n)))
			}
		}
		b.Close()
		s.Close()
	}
	t.Logf("%d kills, %d promises kept", kills, said+1)
}
