package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// folder is what a directory holds: names and contents.
type folder map[string]string

func readFolder(t *testing.T, dir string) folder {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := folder{}
	for _, e := range list {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		f[e.Name()] = string(data)
	}
	return f
}

// write makes a directory of it, in which the copy is two days old.
func (f folder) write(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, data := range f {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if backup := filepath.Join(dir, fileName+backupEnd); f[fileName+backupEnd] != "" {
		old := time.Now().Add(-2 * backupEvery)
		if err := os.Chtimes(backup, old, old); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// writes lists what a file is on its way from before to after: longer, then
// its pages in order, each also half, and the heads last, as bbolt writes it.
// What was not there, or is not bbolt's, grows from nothing.
func writes(before, after string) (states []string) {
	page := os.Getpagesize()
	if len(before) < 4*page || len(after) < 4*page || len(after) < len(before) {
		for n := range 8 {
			states = append(states, after[:len(after)*n/8])
		}
		return states
	}
	file := append([]byte(before), make([]byte, len(after)-len(before))...)
	states = append(states, string(file))
	for _, first := range []int{2 * page, 0} {
		end := len(after)
		if first == 0 {
			end = 2 * page
		}
		for at := first; at < end; at += page {
			if string(file[at:at+page]) != after[at:at+page] {
				if first > 0 { // a head is 80 bytes, and written at once
					copy(file[at:at+page/2], after[at:])
					states = append(states, string(file))
				}
				copy(file[at:at+page], after[at:])
				states = append(states, string(file))
			}
		}
	}
	return states
}

// killedAt starts in a directory, and returns what a kill can leave there: after
// every step, and amid every write.
func killedAt(t *testing.T, start folder) map[string]folder {
	t.Helper()
	dir := start.write(t)
	states := map[string]folder{"at the start": start}
	last, n := start, 0
	seen := func(what string) {
		now := readFolder(t, dir)
		delete(now, pidName)
		n++
		var changed []string
		for name, data := range now {
			moved := slices.Contains(slices.Collect(maps.Values(last)), data)
			if data != last[name] && !moved {
				changed = append(changed, name)
			}
		}
		for _, name := range changed {
			for i, data := range writes(last[name], now[name]) {
				f := maps.Clone(now)
				f[name] = data
				states[fmt.Sprintf("%02d, amid %s, state %d of %s", n, what, i, name)] = f
			}
		}
		states[fmt.Sprintf("%02d, after %s", n, what)] = now
		last = now
	}
	s := &State{dir: dir, file: fileName, pid: pidName, step: seen}
	if _, err := s.start(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if len(states) < 5 {
		t.Fatalf("%d steps", len(states))
	}
	return states
}

// TestKilledAtEveryStepOfAStart kills starts of all kinds, and the daily copy,
// at every step. The next start has the rows that it should have, says so when
// they are not the last ones, and never puts less in the place of a good copy;
// the one after it has nothing to say.
func TestKilledAtEveryStepOfAStart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "old", "in the copy")
	if err := s.Backup(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "new", "after the copy")
	s.Close()
	whole := readFolder(t, dir)
	main, backup := whole[fileName], whole[fileName+backupEnd]
	s = open(t, dir)
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("test")).Put([]byte("old"), []byte("??????")) }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	badRow := readFolder(t, dir)[fileName]
	garbage := strings.Repeat("garbage!", 8192)
	const mainName, copyName = fileName, fileName + backupEnd

	for name, c := range map[string]struct {
		before   folder
		old, new bool // the rows that are there after all
		said     bool // by whoever starts after the kill
	}{
		"created":                        {folder{}, false, false, false},
		"created in an empty file":       {folder{mainName: ""}, false, false, false},
		"nothing to do but the copy":     {folder{mainName: main, copyName: backup}, true, true, false},
		"the first copy":                 {folder{mainName: main}, true, true, false},
		"restored, missing":              {folder{copyName: backup}, true, false, true},
		"restored, missing, set aside":   {folder{copyName: backup, mainName + asideMid + "1": garbage}, true, false, true},
		"restored, empty":                {folder{mainName: "", copyName: backup}, true, false, true},
		"restored, cut":                  {folder{mainName: main[:len(main)/2], copyName: backup}, true, false, true},
		"restored, garbage":              {folder{mainName: garbage, copyName: backup}, true, false, true},
		"no copy":                        {folder{mainName: garbage}, false, false, true},
		"no copy, missing":               {folder{mainName + asideMid + "1": garbage}, false, false, true},
		"the copy damaged":               {folder{mainName: garbage, copyName: garbage + "2"}, false, false, true},
		"the copy damaged, file missing": {folder{copyName: garbage}, false, false, true},
		"the copy empty":                 {folder{mainName: garbage, copyName: ""}, false, false, true},
		"a row set aside":                {folder{mainName: badRow, copyName: backup}, false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			states := killedAt(t, c.before)
			for _, at := range slices.Sorted(maps.Keys(states)) {
				f := states[at]
				dir := f.write(t)
				for _, again := range []bool{false, true} {
					s, err := Open(dir)
					if err != nil {
						t.Fatalf("killed %s: %v", at, err)
					}
					if said := len(s.Report()) > 0; again && said || !again && !said && c.said {
						t.Errorf("killed %s, again %v: it says %q", at, again, s.Report())
					}
					if get(t, s, "old") != "" != c.old || get(t, s, "new") != "" != c.new {
						t.Errorf("killed %s, again %v: the rows are %q and %q; it says %q", at, again, get(t, s, "old"), get(t, s, "new"), s.Report())
					}
					s.Close()
					after := readFolder(t, dir)
					if c.before[copyName] == backup {
						if found, err := check([]byte(after[copyName])); err != nil || found.tables["test"] == nil || found.tables["test"].rows.count == 0 {
							t.Errorf("killed %s, again %v: the copy is %+v, %v", at, again, found, err)
						}
						if c.said && !again && after[copyName] != backup {
							t.Errorf("killed %s: another copy took the place of the good one", at)
						}
					}
					for left := range after {
						if strings.HasSuffix(left, noteEnd) || strings.HasSuffix(left, newEnd) && left != copyName+newEnd {
							t.Errorf("killed %s: %s is left over", at, left)
						}
					}
					for _, kept := range c.before {
						if !slices.Contains([]string{"", main, badRow, backup}, kept) && !slices.Contains(slices.Collect(maps.Values(after)), kept) {
							t.Errorf("killed %s: a damaged file is gone", at)
						}
					}
				}
			}
			t.Logf("killed in %d places", len(states))
		})
	}
}

// The pages of the test's own replay are those that bbolt wrote.
func TestWritesEndInTheFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a", "1")
	before := readFolder(t, dir)[fileName]
	put(t, s, "b", "2")
	after := readFolder(t, dir)[fileName]
	states := writes(before, after)
	if len(states) < 4 || states[len(states)-1] != after {
		t.Fatalf("%d states", len(states))
	}
	tx := func(file string, head int) uint64 {
		return binary.NativeEndian.Uint64([]byte(file)[head*os.Getpagesize()+64:])
	}
	if max(tx(after, 0), tx(after, 1)) != max(tx(before, 0), tx(before, 1))+1 {
		t.Fatal("not one transaction")
	}
	if !bytes.Equal([]byte(states[0])[:len(before)], []byte(before)) {
		t.Fatal("the first is not the file before")
	}
}

// A file that was cut to nothing, or is gone because a start was killed amid
// restoring it, was taken for a new one without a word, and the good copy was
// replaced with one of nothing at once.
func TestRegressionLostFileTakenForANewOne(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a", "1")
	if err := s.Backup(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	good := readFolder(t, dir)
	for name, f := range map[string]folder{
		"empty":   {fileName: "", fileName + backupEnd: good[fileName+backupEnd]},
		"missing": {fileName + asideMid + "20260101T000000.000000000": "x", fileName + backupEnd: good[fileName+backupEnd]},
	} {
		dir := f.write(t)
		s := open(t, dir)
		said := strings.Join(s.Report(), "\n")
		if get(t, s, "a") != "1" || !strings.Contains(said, name) || !strings.Contains(said, "took its place") {
			t.Errorf("%s: a is %q, it says %q", name, get(t, s, "a"), said)
		}
		if after := readFolder(t, dir); after[fileName+backupEnd] != f[fileName+backupEnd] {
			t.Errorf("%s: the copy was replaced", name)
		}
		// Who removed it on purpose reads how that is done.
		for _, path := range []string{fileName, fileName + backupEnd, fileName + asideMid + "*"} {
			if !strings.Contains(said, "start afresh") || !strings.Contains(said, filepath.Join(dir, path)) {
				t.Errorf("%s: %q is not in %q", name, path, said)
			}
		}
		s.Close()
		paths, _ := filepath.Glob(filepath.Join(dir, fileName+"*"))
		for _, path := range paths {
			os.Remove(path)
		}
		if s = open(t, dir); len(s.Report()) != 0 || get(t, s, "a") != "" {
			t.Errorf("%s: afresh: %q", name, s.Report())
		}
		s.Close()
	}
}
