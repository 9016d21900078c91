package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// quietTime is how long a command may take without a word.
const quietTime = 2 * time.Second

// progress shows on a terminal that a command is at work. It is safe for
// concurrent use.
type progress struct {
	w       io.Writer
	started time.Time

	mu    sync.Mutex // guards what follows; held while the line is written
	text  string
	shown bool
	done  bool
	tick  *time.Timer
}

// working shows text in place on standard error once the caller has worked for
// two seconds, until stop is called. Where there is no terminal it shows
// nothing: an error must stay one line.
func (a *app) working(format string, args ...any) (stop func()) {
	if a.json || !inPlace(a.stderr) {
		return func() {}
	}
	p := startProgress(a.stderr, fmt.Sprintf(format, args...), quietTime)
	return p.stop
}

// startProgress shows text on w, a terminal, from quiet on.
func startProgress(w io.Writer, text string, quiet time.Duration) *progress {
	p := &progress{w: w, started: time.Now(), text: text}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tick = time.AfterFunc(quiet, p.show)
	return p
}

// set changes the text.
func (p *progress) set(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
}

func (p *progress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return
	}
	p.shown = true
	fmt.Fprintf(p.w, "\r\x1b[K%s (%s)", clean(p.text), ageText(time.Since(p.started)))
	p.tick.Reset(250 * time.Millisecond)
}

// stop clears the line. It may be called more than once.
func (p *progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return
	}
	p.done = true
	p.tick.Stop()
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
