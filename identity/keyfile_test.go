package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// childPath tells a copy of this test binary to be one of the racing processes.
const childPath = "KITH_TEST_KEY_PATH"

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		key, created, err := LoadOrCreate(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(key.Public(), created)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestLoadOrCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "node.key")
	key, created, err := LoadOrCreate(path)
	if err != nil || !created {
		t.Fatalf("first: %v, %v", created, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	again, created, err := LoadOrCreate(path)
	if err != nil || created || !again.Equal(key) {
		t.Errorf("second: created %v, %v", created, err)
	}
	loaded, err := Load(path)
	if err != nil || !loaded.Equal(key) {
		t.Errorf("Load: %v", err)
	}
	onlyFile(t, dir, "node.key")
	if _, _, err := LoadOrCreate(filepath.Join(dir, "no", "such", "node.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// onlyFile fails unless dir holds exactly the file name.
func onlyFile(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("folder holds %v (%v), want only %s", entries, err, name)
	}
}

func TestLoadOrCreateRaceOfGoroutines(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		path := filepath.Join(dir, "node.key")
		const racers = 16
		keys, made := make([]PrivKey, racers), make([]bool, racers)
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range racers {
			wg.Go(func() {
				<-start
				var err error
				if keys[i], made[i], err = LoadOrCreate(path); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		creators := 0
		for i := range racers {
			if !keys[i].Equal(keys[0]) {
				t.Fatalf("racers hold different keys: %v, %v", keys[0], keys[i])
			}
			if made[i] {
				creators++
			}
		}
		if creators != 1 {
			t.Errorf("%d racers created the key", creators)
		}
		onlyFile(t, dir, "node.key")
	}
}

func TestLoadOrCreateRaceOfProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, 6)
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Env = append(os.Environ(), childPath+"="+path)
			b, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, b)
			}
			out[i] = string(b)
		})
	}
	wg.Wait()
	key, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	creators := 0
	for _, s := range out {
		if !strings.HasPrefix(s, key.Public().String()) {
			t.Errorf("a process had %q, the file holds %s", s, key.Public())
		}
		creators += strings.Count(s, "true")
	}
	if creators != 1 {
		t.Errorf("%d processes created the key: %q", creators, out)
	}
}

// A creation killed before publishing leaves its own file, whole or partial, and nothing under the real name.
func TestKilledCreationDoesNoHarm(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "node.key")
	for i, left := range []string{"", keyText(t, 1)[:70], keyText(t, 1)} {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf(".node.key.new-%d", i)), []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, created, err := LoadOrCreate(path)
	if err != nil || !created || key.Equal(seededKey(t, 1)) {
		t.Fatalf("%v, %v, %v", key, created, err)
	}
	again, created, err := LoadOrCreate(path)
	if err != nil || created || !again.Equal(key) {
		t.Fatalf("second: %v, %v, %v", again, created, err)
	}
}

func TestNeverOverwrites(t *testing.T) {
	noLinks := func(string, string) error { return errors.ErrUnsupported }
	for name, link := range map[string]func(string, string) error{"link": os.Link, "no links": noLinks} {
		dir := t.TempDir()
		path := filepath.Join(dir, "node.key")
		for _, content := range []string{"", "precious", keyText(t, 2)} {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := save(path, seededKey(t, 1), link); !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s: over %q: %v", name, content, err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != content {
				t.Errorf("%s: %q became %q, %v", name, content, got, err)
			}
			onlyFile(t, dir, "node.key")
		}
		// A file that is there but no key is an error of LoadOrCreate too, and stays.
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadOrCreate(path); !errors.Is(err, ErrKeyMalformed) {
			t.Errorf("%s: empty file: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := save(path, seededKey(t, 1), link); err != nil {
			t.Errorf("%s: new file: %v", name, err)
		}
		if key, err := Load(path); err != nil || !key.Equal(seededKey(t, 1)) {
			t.Errorf("%s: %v, %v", name, key, err)
		}
		onlyFile(t, dir, "node.key")
	}
	if err := Save(filepath.Join(t.TempDir(), "k"), PrivKey{}); !errors.Is(err, ErrNoKey) {
		t.Errorf("zero key: %v", err)
	}
}

func TestLoadPermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	if err := Save(path, seededKey(t, 1)); err != nil {
		t.Fatal(err)
	}
	for mode := fs.FileMode(0); mode <= 0o777; mode++ {
		if mode&0o400 == 0 {
			continue // whether the owner himself may read it is the system's to say
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if mode&0o077 == 0 {
			if err != nil {
				t.Errorf("mode %04o: %v", mode, err)
			}
			continue
		}
		if !errors.Is(err, ErrKeyPermissions) || !strings.Contains(err.Error(), fmt.Sprintf("mode %04o", mode)) ||
			!strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if _, _, err := LoadOrCreate(path); !errors.Is(err, ErrKeyPermissions) {
			t.Errorf("LoadOrCreate at mode %04o: %v", mode, err)
		}
	}
}

func TestLoadWantsARegularFile(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, path := range []string{dir, os.DevNull, filepath.Join(dir, "s")} {
		if _, _, err := LoadOrCreate(path); !errors.Is(err, ErrKeyNotRegular) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// Links are followed (secret stores mount files so), and one to nothing is no place to create.
	key, link, dangling := filepath.Join(dir, "k"), filepath.Join(dir, "l"), filepath.Join(dir, "d")
	if err := Save(key, seededKey(t, 1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(key, link), os.Symlink(filepath.Join(dir, "none"), dangling)); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(link); err != nil || !got.Equal(seededKey(t, 1)) {
		t.Errorf("through a link: %v, %v", got, err)
	}
	if _, _, err := LoadOrCreate(dangling); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dangling link: %v", err)
	}
}

func TestLoadDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "node.key")
	for name, c := range damagedKeys(t) {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := LoadOrCreate(path)
		if !errors.Is(err, ErrKeyMalformed) || !strings.Contains(err.Error(), c.fault) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want path and %q", name, err, c.fault)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != c.text {
			t.Errorf("%s: file changed (%v)", name, err)
		}
	}
}
