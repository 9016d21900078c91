package main

import (
	"path/filepath"
	"strings"
)

// absolute makes the path of a unix socket in a target or bind address full:
// the node has a working directory of its own.
func absolute(addr string) (string, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok || path == "" || strings.HasPrefix(path, "/") || strings.HasPrefix(path, "@") {
		return addr, nil
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return "", usagef("cannot tell the full path of %s: %v; give a full path", path, err)
	}
	return "unix:" + full, nil
}
