package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

const (
	// kithModule is the module of kith, around this one.
	kithModule = ".."
	// kuboModule is the module that says which kubo, beside this one.
	kuboModule = "../interop/kubo"
)

// kuboBinary returns the path of kubo's command. It is built once, which takes
// minutes, and kept in the user's cache directory under the name that the
// tests in kuboModule give it too.
func kuboBinary(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	// Everything that decides what the build yields.
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(kuboModule, name))
		if err != nil {
			return "", fmt.Errorf("run this in the directory bench of the repository: %w", err)
		}
		hash.Write(data)
	}
	path := filepath.Join(cache, "kith-interop", fmt.Sprintf("ipfs-%x", hash.Sum(nil)[:8]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	// Whoever builds at the same time writes a file of their own.
	dir, err := os.MkdirTemp(filepath.Dir(path), "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	built := filepath.Join(dir, "ipfs")
	if err := goBuild(ctx, kuboModule, "-mod=readonly", "-o", built, "github.com/ipfs/kubo/cmd/ipfs"); err != nil {
		return "", err
	}
	return path, os.Rename(built, path)
}

// kithBinary builds kith's command into dir.
func kithBinary(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "kith")
	return path, goBuild(ctx, kithModule, "-o", path, "./cmd/kith")
}

// goBuild runs go build in dir, without version-control stamps, so that it
// works in a checkout as well as in an unpacked archive.
func goBuild(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-buildvcs=false"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s in %s: %w\n%s", cmd, dir, err, out)
	}
	return nil
}
