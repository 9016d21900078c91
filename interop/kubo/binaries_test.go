package kubo

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

const kuboVersion = "0.38.1"

// ipfsBinary returns the path of kubo's command, built once for each content
// of go.mod and go.sum and each Go version, and kept in the user's cache
// directory. Two test runs that build at the same time both succeed: each
// writes its own file and renames it into place.
var ipfsBinary = sync.OnceValues(func() (string, error) {
	path, err := ipfsCachePath()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	built := filepath.Join(dir, filepath.Base(path))
	if err := goBuild(".", "-mod=readonly", "-o", built, "github.com/ipfs/kubo/cmd/ipfs"); err != nil {
		return "", err
	}
	out, err := exec.Command(built, "version", "--number").Output()
	if err != nil {
		return "", fmt.Errorf("the ipfs command just built does not run: %w", err)
	}
	if got := strings.TrimSpace(string(out)); got != kuboVersion {
		return "", fmt.Errorf("built kubo %s, these tests are written for %s", got, kuboVersion)
	}
	return path, os.Rename(built, path)
})

// ipfsCachePath names the cached command after everything that decides what
// the build yields.
func ipfsCachePath() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum"} {
		file, err := os.Open(name)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(hash, file)
		file.Close()
		if err != nil {
			return "", err
		}
	}
	return filepath.Join(cache, "kith-interop", fmt.Sprintf("ipfs-%x", hash.Sum(nil)[:8])), nil
}

// kithBinary returns the path of the kith command: the one that KITH_BINARY
// names, a release to be tested say, or else one built from the parent module
// into toolDir.
var kithBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("KITH_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(toolDir, "kith")
	return path, goBuild(filepath.Join("..", ".."), "-o", path, "./cmd/kith")
})

// goBuild runs go build in dir, without version-control stamps, so that it
// works in a checkout as well as in an unpacked archive.
func goBuild(dir string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-buildvcs=false"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// must unwraps the result of a build.
func must(t *testing.T, build func() (string, error)) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// moduleDir returns the directory of a module that go.mod requires, unpacked
// in the module cache.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module).CombinedOutput()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Fatalf("where is module %s: %v\n%s", module, err, out)
	}
	return dir
}
