package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
)

func TestKV(t *testing.T) {
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
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"put", at, "name", "satoshi"}, "name was \"\", is \"satoshi\"\n"},
		{[]string{"put", at, "name", "hal"}, "name was \"satoshi\", is \"hal\"\n"},
		{[]string{"get", at, "name"}, "hal\n"},
		{[]string{"list", at}, "name\n"},
	} {
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"-local"}, step.args...), &out); err != nil || out.String() != step.want {
			t.Errorf("%q: %q, %v", step.args[:1], &out, err)
		}
	}
	if err := run(t.Context(), []string{"-local", "get", at, "nosuch"}, io.Discard); err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Error(err)
	}
	if err := run(t.Context(), []string{"-local", "put", at, "", "x"}, io.Discard); err == nil || !strings.Contains(err.Error(), "at least one letter") {
		t.Error(err)
	}
	if err := run(t.Context(), []string{"-local", "put"}, io.Discard); err == nil {
		t.Error("put without arguments")
	}
}
