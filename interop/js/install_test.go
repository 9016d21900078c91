package js

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// stamp is a copy of the package-lock.json that node_modules was installed by.
var stamp = filepath.Join("node_modules", ".installed-by")

// install has npm install what package-lock.json names, unless that is done.
var install = sync.OnceValue(func() error {
	version, err := exec.Command("node", "--version").Output()
	if err != nil {
		return fmt.Errorf("node: %w; the JavaScript peer needs Node.js 18 or later and npm", err)
	}
	var major int
	if _, err := fmt.Sscanf(string(version), "v%d.", &major); err != nil || major < 18 {
		return fmt.Errorf("node is %s; the JavaScript peer needs Node.js 18 or later", bytes.TrimSpace(version))
	}
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		return err
	}
	if done, err := os.ReadFile(stamp); err == nil && bytes.Equal(done, lock) {
		return nil
	}
	out, err := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error").CombinedOutput()
	if err != nil {
		return fmt.Errorf("npm ci in interop/js: %w; is npm installed, and its registry reached?\n%s", err, out)
	}
	return os.WriteFile(stamp, lock, 0o644)
})

// The lock names no registry: npm takes the one it is set up with.
func TestLockNamesNoHost(t *testing.T) {
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(lock), `"resolved"`) {
		t.Error(`package-lock.json has addresses of a registry: write it with npm install --omit-lockfile-registry-resolved`)
	}
	if n := strings.Count(string(lock), `"integrity"`); n < 50 {
		t.Errorf("package-lock.json pins the content of %d packages", n)
	}
}
