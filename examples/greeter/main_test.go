package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
)

func TestGreeter(t *testing.T) {
	r, w := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	all.Go(func() {
		if err := run(ctx, []string{"-local", "serve"}, w); err != nil {
			t.Error(err)
		}
		w.Close()
	})
	said := make([]byte, 4096)
	n, err := r.Read(said)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Fields(string(said[:n]))[6]
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-local", "hello", at, "Ann"}, &out); err != nil || !strings.HasPrefix(out.String(), "Hello Ann, whose peer ID ends in ") {
		t.Errorf("%q, %v", &out, err)
	}
	if err := run(t.Context(), []string{"-local", "hello", at}, io.Discard); err == nil {
		t.Error("hello without a name")
	}
}
