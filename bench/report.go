package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// report is the whole run.
type report struct {
	Machine machine  `json:"machine"`
	Quick   bool     `json:"quick"` // a smoke run: the figures mean nothing
	Peers   []setup  `json:"peers,omitempty"`
	Rows    []result `json:"rows"`
}

// setup says how a program that was measured was configured.
type setup struct {
	Name   string `json:"name"`
	Config string `json:"config"`
}

// peer notes how a program was set up, once.
func (r *report) peer(name, config string) {
	if !slices.ContainsFunc(r.Peers, func(s setup) bool { return s.Name == name }) {
		r.Peers = append(r.Peers, setup{name, config})
	}
}

// met says whether every bar was met.
func (r *report) met() bool {
	return !slices.ContainsFunc(r.Rows, func(r result) bool { return !r.Met })
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) writeMarkdown(w io.Writer) error {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%s, commit %s, %s, %s/%s, %d cores (%s), kernel %s, load %s before and %s after\n\n",
		m.Date, m.Commit, m.Go, m.OS, m.Arch, m.Cores, m.CPU, m.Kernel, m.LoadBefore, m.LoadAfter)
	if r.Quick {
		b.WriteString("**A smoke run: the figures mean nothing.**\n\n")
	}
	b.WriteString("| row | what | ours (median) | beside it (median) | unit | ratio | p25 to p75 | bar | pairs | |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range r.Rows {
		fmt.Fprintf(&b, "| %s | %s | %s: %s | %s: %s | %s | **%.3f** | %.3f to %.3f | %s | %d | %s |\n",
			r.Row, r.What, r.Ours, figure(r.OursP50), r.Theirs, figure(r.TheirsP50), r.Unit,
			r.Ratio, r.P25, r.P75, r.barText(), len(r.Pairs), r.verdict())
	}
	for _, r := range r.Rows {
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "\n* %s, %s: %s", r.Row, r.What, n)
		}
	}
	b.WriteString("\n")
	for _, s := range r.Peers {
		fmt.Fprintf(&b, "\n%s: %s\n", s.Name, s.Config)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *result) barText() string {
	if r.Bar == 0 {
		return "none"
	}
	if r.AtMost {
		return fmt.Sprintf("<= %.4g", r.Bar)
	}
	return fmt.Sprintf(">= %.4g", r.Bar)
}

func (r *result) verdict() string {
	if r.Bar == 0 {
		return "printed"
	}
	if r.Met {
		return "met"
	}
	return "**missed**"
}

// figure prints three digits, or a whole number when it is larger.
func figure(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
