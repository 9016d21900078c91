package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// kithBinary is the kith command under test; set by TestMain.
var kithBinary string

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

// runAll builds the kith command, unless KITH_BINARY names one, and runs the
// tests. Under -race the command has the race detector as well.
func runAll(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "interop: these tests make namespaces and mounts; run them as root, after interop/install.sh")
		return 1
	}
	if path := os.Getenv("KITH_BINARY"); path != "" {
		kithBinary, _ = filepath.Abs(path)
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "kith-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	kithBinary = filepath.Join(dir, "kith")
	args := []string{"build", "-buildvcs=false", "-o", kithBinary}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/kith")...)
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "interop: cannot build kith: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
