package interop

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const diskBlock = 4096

// disk is a file system of 1 MiB that only programs in ns see.
type disk struct {
	ns   *namespace
	path string
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{newNamespace(t, unix.CLONE_NEWNS), shortDir(t, "kith-")}
	var err error
	d.ns.do(func() { err = unix.Mount("none", d.path, "tmpfs", 0, "size=1m") })
	if err != nil {
		t.Fatalf("cannot mount a small file system: %v", err)
	}
	return d
}

// fill leaves room for so many blocks.
func (d *disk) fill(t *testing.T, blocks int64) {
	t.Helper()
	var err error
	d.ns.do(func() { err = fill(filepath.Join(d.path, "filler"), blocks) })
	if err != nil {
		t.Fatal(err)
	}
}

func fill(path string, leave int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var size int64
	for block := make([]byte, diskBlock); ; size += diskBlock {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return f.Truncate(max(0, size-leave*diskBlock))
		} else if err != nil {
			return err
		}
	}
}

// free gives the room back.
func (d *disk) free(t *testing.T) {
	t.Helper()
	var err error
	d.ns.do(func() { err = os.Remove(filepath.Join(d.path, "filler")) })
	if err != nil {
		t.Fatal(err)
	}
}

// key reads the key file of a home, nil when there is none.
func (d *disk) key(t *testing.T, home string) (data []byte) {
	t.Helper()
	var err error
	d.ns.do(func() { data, err = os.ReadFile(filepath.Join(home, "key")) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return data
}

// refusal checks that a command failed in one line that says what happened,
// why, and what to do.
func refusal(t *testing.T, home string, r result) {
	t.Helper()
	if r.code != 1 || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "kith: ") {
		t.Errorf("want exit code 1 and one line that starts with \"kith: \": %v", r)
	}
	for _, piece := range []string{home, "no space left on device", "free"} {
		if !strings.Contains(r.stderr, piece) {
			t.Errorf("the line does not say %q: %v", piece, r)
		}
	}
}

// TestFirstStartOnFullDisk: nothing is half made.
func TestFirstStartOnFullDisk(t *testing.T) {
	d := newDisk(t)
	home := filepath.Join(d.path, "home")
	d.fill(t, 0)
	refusal(t, home, command(t, d.ns, kithBinary, "--home", home, "up", "--local"))
	if key := d.key(t, home); key != nil {
		t.Errorf("a key of %d bytes was left", len(key))
	}
	d.free(t)
	upIn(t, d.ns, "node", home, "--local")
}

// TestFirstStartOnAlmostFullDisk gives the first start a block more each time,
// until all of it fits: whatever it is that fails, a second start with room
// enough succeeds, and keeps the identity if the first one had made it.
func TestFirstStartOnAlmostFullDisk(t *testing.T) {
	d := newDisk(t)
	for blocks := int64(1); ; blocks++ {
		if blocks == 100 {
			t.Fatal("a first start does not fit into 400 KiB")
		}
		home := filepath.Join(d.path, fmt.Sprint("home", blocks))
		d.fill(t, blocks)
		r, whole := firstStart(t, d.ns, home)
		key := d.key(t, home)
		d.free(t)
		n := upIn(t, d.ns, "node", home, "--local")
		n.end(t)
		if now := d.key(t, home); key != nil && !bytes.Equal(key, now) {
			t.Errorf("%d blocks: the identity changed from %q to %q", blocks, key, now)
		}
		if r.code != 0 {
			refusal(t, home, r)
		}
		var err error
		d.ns.do(func() { err = os.RemoveAll(home) })
		if err != nil {
			t.Fatal(err)
		}
		if whole {
			t.Logf("the first start that fitted had %d blocks of %d bytes", blocks, diskBlock)
			return
		}
		if t.Failed() {
			t.Fatalf("on a disk with %d free blocks", blocks)
		}
	}
}

// firstStart runs `kith up` until it is up, and then stops it, or until it
// fails. whole says that it was up and had nothing to complain about.
func firstStart(t *testing.T, ns *namespace, home string) (r result, whole bool) {
	t.Helper()
	p := start(t, ns, "kith up", syscall.SIGTERM, exec.Command(kithBinary, "--home", home, "up", "--local"))
	eventually(t, "kith up neither runs nor ends", func() error {
		select {
		case <-p.exited:
			return nil
		default:
		}
		if out, err := os.ReadFile(p.stdout); err != nil || !bytes.Contains(out, []byte("Next, in another terminal")) {
			return errors.New(p.output())
		}
		return nil
	})
	p.stop()
	stdout, err1 := os.ReadFile(p.stdout)
	stderr, err2 := os.ReadFile(p.stderr)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	r = result{string(stdout), string(stderr), p.cmd.ProcessState.ExitCode()}
	return r, r.code == 0 && !strings.Contains(r.stderr, "level=WARN")
}

// TestStartOnFullDisk: a node that has been here starts as what it was.
func TestStartOnFullDisk(t *testing.T) {
	d := newDisk(t)
	home := filepath.Join(d.path, "home")
	before := upIn(t, d.ns, "before", home, "--local")
	before.end(t)
	key := d.key(t, home)
	d.fill(t, 0)
	after := upIn(t, d.ns, "after", home, "--local")                    // starting writes nothing that matters
	if after.addr != before.addr || !bytes.Equal(d.key(t, home), key) { // the port is in the state file
		t.Errorf("the node was %s and is %s", before.addr, after.addr)
	}
	var status struct{ Notices []string }
	if after.ask(t, &status, "status"); len(status.Notices) != 0 {
		t.Errorf("something had to be repaired: %q", status.Notices)
	}
}

// TestDiskFillsUp: a running node goes on, and takes new services or says in
// one line why it does not.
func TestDiskFillsUp(t *testing.T) {
	d, web := newDisk(t), startNginx(t)
	home := filepath.Join(d.path, "home")
	n, user := upIn(t, d.ns, "node", home, "--local"), up(t, "user")
	n.do(t, "expose", "unix:"+web.socket(), "--name", "web", "--allow", user.id)
	d.fill(t, 0)
	fetch := func(name string) {
		t.Helper()
		if r := curl(t, nil, "http://"+user.connect(t, n, name)+"/large"); !bytes.Equal(r.body, web.large) {
			t.Error(r)
		}
	}
	fetch("web")

	r := n.run(t, "expose", "unix:"+web.socket(), "--name", "more", "--allow", user.id)
	switch mounts := n.mounts(t); {
	case r.code == 0 && len(mounts) == 2:
		fetch("more")
	case r.code == 0:
		t.Errorf("kith expose succeeded, but the mounts are %+v", mounts)
	default:
		refusal(t, home, r)
		if len(mounts) != 1 {
			t.Errorf("kith expose failed, but the mounts are %+v", mounts)
		}
		d.free(t)
		n.do(t, "expose", "unix:"+web.socket(), "--name", "more", "--allow", user.id)
		fetch("more")
		d.fill(t, 0)
	}

	n.end(t) // in peace, on the full disk
	d.free(t)
	if again := upIn(t, d.ns, "again", home, "--local"); again.addr != n.addr {
		t.Errorf("the node was %s and is %s", n.addr, again.addr)
	}
}
