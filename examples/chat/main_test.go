package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
)

// person runs the program and talks to it.
type person struct {
	t    *testing.T
	in   *io.PipeWriter
	out  *bufio.Scanner
	addr string
}

func join(t *testing.T, all *sync.WaitGroup, ctx context.Context, args ...string) *person {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	p := &person{t: t, in: inW, out: bufio.NewScanner(outR)}
	all.Go(func() {
		defer outW.Close()
		if err := run(ctx, append([]string{"-local"}, args...), inR, outW); err != nil {
			t.Error(err)
		}
	})
	p.hears("you are")
	p.addr = strings.Fields(p.hears("go run"))[3]
	return p
}

// hears reads lines until one has the text.
func (p *person) hears(text string) string {
	p.t.Helper()
	for p.out.Scan() {
		if strings.Contains(p.out.Text(), text) {
			return p.out.Text()
		}
	}
	p.t.Fatalf("never heard %q", text)
	return ""
}

func (p *person) says(line string) { io.WriteString(p.in, line+"\n") }

func TestChat(t *testing.T) {
	var all sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	ann := join(t, &all, ctx, "-name", "ann")
	bob := join(t, &all, ctx, "-name", "bob", ann.addr)
	ann.hears("bob is here")
	bob.hears("ann is here")
	ann.says("hello \x1b[2J")
	bob.hears("ann: hello ?[2J")
	ann.hears("(to 1)")
	bob.says("bye")
	bob.in.Close()
	ann.hears("bob: bye")
	for bob.out.Scan() { // to the end, so that nobody waits to write
	}
	ann.hears("bob is gone")
	ann.in.Close()
	for ann.out.Scan() {
	}
	stop()
	all.Wait()
}
