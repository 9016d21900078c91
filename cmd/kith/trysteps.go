package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// tryStepResult is one line of the table.
type tryStepResult struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// tryReport is what kith try --json prints.
type tryReport struct {
	Steps []tryStepResult `json:"steps"`
	// LatencyP50 is the median of connecting and one request, in milliseconds.
	LatencyP50 float64 `json:"latency_p50_ms"`
	// Send and Receive are in MiB a second.
	Send    float64 `json:"send_mib_s"`
	Receive float64 `json:"receive_mib_s"`
	URL     string  `json:"url,omitempty"`
}

// steps shows the steps of kith try while they run, on standard error: in place
// on a terminal, else a line for each that takes over two seconds, and nothing
// with --json. It is used by one goroutine.
type steps struct {
	app     *app
	w       io.Writer
	inPlace bool
	report  tryReport

	name     string
	started  time.Time
	reported time.Time // the last time that progress was shown
	line     *progress
}

func newSteps(a *app) *steps {
	return &steps{app: a, w: a.stderr, inPlace: !a.json && inPlace(a.stderr)}
}

// begin starts a step.
func (s *steps) begin(name string) {
	s.name, s.started = name, time.Now()
	s.reported = s.started
	if s.inPlace {
		s.line = startProgress(s.w, name, 0)
	}
}

// progress says how far the step is.
func (s *steps) progress(format string, args ...any) {
	if s.app.json || time.Since(s.reported) < quietTime && !s.inPlace || s.inPlace && time.Since(s.reported) < 100*time.Millisecond {
		return
	}
	s.reported = time.Now()
	text := s.name + ": " + fmt.Sprintf(format, args...)
	if s.inPlace {
		s.line.set(text)
		return
	}
	fmt.Fprintf(s.w, "%s (%s)\n", text, ageText(time.Since(s.started)))
}

// end notes how the step went.
func (s *steps) end(detail string, err error) {
	if s.line != nil {
		s.line.stop()
		s.line = nil
	}
	if err != nil {
		detail = oneLine(err.Error())
	}
	s.report.Steps = append(s.report.Steps, tryStepResult{Name: s.name, OK: err == nil, Detail: detail, Seconds: time.Since(s.started).Seconds()})
}

// abandon prints the steps that went well before one failed.
func (s *steps) abandon() {
	for _, r := range s.report.Steps {
		if r.OK && !s.app.json {
			fmt.Fprintf(s.w, "ok: %s (%s)\n", r.Name, clean(r.Detail))
		}
	}
}

// print prints the table; kept adds where to look.
func (s *steps) print(url string, kept bool) error {
	if kept {
		s.report.URL = url
	}
	if s.app.json {
		line, err := json.Marshal(s.report)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.app.stdout, "%s\n", line)
		return err
	}
	var b strings.Builder
	t := newTable(&b, "STEP", "TIME", "RESULT")
	for _, r := range s.report.Steps {
		t.row(r.Name, fmt.Sprintf("%.2f s", r.Seconds), r.Detail)
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nAll good: connect and request %.2f ms (p50), %.0f MiB/s out, %.0f MiB/s in.\n", s.report.LatencyP50, s.report.Send, s.report.Receive)
	if kept {
		fmt.Fprintf(&b, "Open %s (Ctrl-C ends it)\n", url)
	} else {
		b.WriteString("Next: `kith up` here and on another machine, then `kith expose 3000 --allow PEER`.\n")
	}
	_, err := io.WriteString(s.app.stdout, b.String())
	return err
}
