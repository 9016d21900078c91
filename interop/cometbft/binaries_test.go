package cometbft

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// A release is one version of the node and the folder that pins it.
type release struct {
	name, dir string
	binary    func() (string, error) // built once
}

var releases = []release{
	{"v0.38.17", "v038", sync.OnceValues(func() (string, error) { return build("v038", "0.38.17") })},
	{"v1.0.1", "v1", sync.OnceValues(func() (string, error) { return build("v1", "1.0.1") })},
}

// build returns the path of the node's program, built once for each content of
// the folder's go.mod and go.sum and each Go version. Two runs that build at
// the same time both succeed: each writes its own file and renames it.
func build(dir, version string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		hash.Write(data)
	}
	cache = filepath.Join(cache, "kith-interop")
	path := filepath.Join(cache, fmt.Sprintf("cometbft-%s-%x", version, hash.Sum(nil)[:8]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	built := filepath.Join(scratch, "cometbft")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-mod=readonly", "-o", built, "github.com/cometbft/cometbft/cmd/cometbft")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cometbft %s: %w\n%s", version, err, out)
	}
	out, err := exec.Command(built, "version").Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != version {
		return "", fmt.Errorf("built cometbft says version %q (%v), want %s", got, err, version)
	}
	return path, os.Rename(built, path)
}
