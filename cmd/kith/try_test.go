package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-p2p/kith"
)

// inProcess is an app whose output the test reads.
func inProcess() (*app, *lockedBuffer, *lockedBuffer) {
	stdout, stderr := &lockedBuffer{}, &lockedBuffer{}
	return &app{stdout: stdout, stderr: stderr, log: slog.New(slog.DiscardHandler)}, stdout, stderr
}

// TestTry runs all of it with little data, and looks for what it leaves.
func TestTry(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	before := runtime.NumGoroutine()
	a, stdout, stderr := inProcess()
	if err := a.try(t.Context(), 5<<20, false); err != nil {
		t.Fatalf("%v; %s", err, stderr)
	}
	for _, piece := range []string{
		"STEP ", "start two nodes", "3 files, 16.0 MiB, all the same", "300 new connections", "p50", "send 5.0 MiB", "receive 5.0 MiB", "MiB/s",
		"all of it came, then EOF", "refused: not allowed", "All good",
	} {
		if !strings.Contains(stdout.String(), piece) {
			t.Errorf("no %q in %s", piece, stdout)
		}
	}
	if entries, err := os.ReadDir(os.TempDir()); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, error %v", entries, err)
	}
	for deadline := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// TestTryInterrupted: it ends at once and leaves nothing.
func TestTryInterrupted(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	a, _, _ := inProcess()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := a.try(ctx, 1<<40, false); !errors.Is(err, errInterrupted) {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if entries, err := os.ReadDir(os.TempDir()); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, error %v", entries, err)
	}
}

// TestTryFindsFaults breaks what it checks; each fault must be told.
func TestTryFindsFaults(t *testing.T) {
	other, err := serveSite()
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	for _, tc := range []struct {
		name string
		do   func(*trial, context.Context) (string, error)
		want string
	}{
		{"a site with other bytes", func(t *trial, ctx context.Context) (string, error) {
			t.siteLocal = other.addr()
			return t.fetch(ctx)
		}, "/random.bin came with other bytes"},
		{"no site", func(t *trial, ctx context.Context) (string, error) {
			t.siteLocal = t.bulkLocal
			return t.fetch(ctx)
		}, ""},
		{"a changed byte", func(t *trial, _ context.Context) (string, error) {
			_, err := t.bulk.check(strings.NewReader(string(t.bulk.at(0, 1000))+"\x00\x00"), nil)
			return "", err
		}, "another byte than was sent came at offset 100"},
		{"a reply that is cut", func(t *trial, ctx context.Context) (string, error) {
			var cutter sync.WaitGroup
			defer cutter.Wait()
			replies := func() bool { // the client's connect has returned long since
				return slices.ContainsFunc(t.server.Streams(), func(s kith.Stream) bool { return min(s.BytesIn, s.BytesOut) > 0 })
			}
			cutter.Go(func() {
				for ctx.Err() == nil && (!replies() || t.server.CloseStreams() == 0) {
					time.Sleep(time.Millisecond)
				}
			})
			t.size = 1 << 40
			return t.receive(ctx)
		}, "after "},
		{"somebody that is let in", func(t *trial, ctx context.Context) (string, error) {
			t.private = "site"
			return t.refused(ctx)
		}, "it got in"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			a, _, _ := inProcess()
			tr := &trial{size: 1 << 20, steps: newSteps(a)}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := tr.start(ctx); err != nil {
				t.Fatal(err)
			}
			nodes := []*tryNode{tr.server, tr.client}
			if _, err := tr.tunnel(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := tc.do(tr, ctx); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			tr.server, tr.client = nodes[0], nodes[1]
			if err := tr.close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTryKeep: the printed URL shows the page until a signal ends it.
func TestTryKeep(t *testing.T) {
	p := begin(t, newHome(t), "try", "--keep", "--json", "--size", "1MiB")
	var report tryReport
	if err := json.Unmarshal([]byte(p.first), &report); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^http://127\.0\.0\.1:\d+/$`).MatchString(report.URL) {
		t.Fatalf("URL %q", report.URL)
	}
	if page := get(t, report.URL); !strings.Contains(page, "This page came through kith") {
		t.Errorf("page %q", page)
	}
	if code := p.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d: %s", code, p.stderr)
	}
}

// A step that took over two seconds wrote a line about it to standard error, beside
// --json, too.
func TestRegressionTryJSONHasNoProgress(t *testing.T) {
	for _, inJSON := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a, _, stderr := inProcess()
			a.json = inJSON
			s := newSteps(a)
			s.begin("a slow step")
			time.Sleep(quietTime)
			s.progress("%d of 2", 1)
			s.end("", nil)
			if got := stderr.String(); strings.Contains(got, "a slow step: 1 of 2") == inJSON || inJSON && got != "" {
				t.Errorf("json %v: %q", inJSON, got)
			}
		})
	}
}
