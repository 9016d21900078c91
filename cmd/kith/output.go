package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// encode returns a response of the control API as JSON on one line, with every
// field that has no value at its zero. (protojson varies its white space from
// build to build; json.Compact settles it.)
func encode(m proto.Message) ([]byte, error) {
	data, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("cannot print the answer as JSON: %w", err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, data); err != nil {
		return nil, fmt.Errorf("cannot print the answer as JSON: %w", err)
	}
	return line.Bytes(), nil
}

// printLine prints a response as one line of JSON.
func (a *app) printLine(m proto.Message) error {
	data, err := encode(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", data)
	return err
}

// printJSON prints a response as indented JSON.
func (a *app) printJSON(m proto.Message) error {
	data, err := encode(m)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := json.Indent(&text, data, "", "  "); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", text.Bytes())
	return err
}

// table writes aligned rows under one header.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, header ...string) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(header...)
	return t
}

// row adds a row; an empty cell becomes "-".
func (t *table) row(cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cell = "-"
		}
		if i > 0 {
			io.WriteString(t.w, "\t")
		}
		io.WriteString(t.w, clean(cell))
	}
	io.WriteString(t.w, "\n")
}

func (t *table) flush() error { return t.w.Flush() }

// bytesText is a number of bytes in binary units.
func bytesText(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v, unit := float64(n)/1024, 0
	for v >= 1024 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[unit])
}

// parseBytes reads a size such as 4096, 64KiB, 1.5MB or 256MiB. It must be a
// whole number of bytes between 1 and the largest int64.
func parseBytes(s string) (int64, error) {
	units := []struct {
		suffix string
		size   float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil {
			break
		}
		if v *= u.size; !(v >= 1) || v >= math.MaxInt64 || v != math.Trunc(v) {
			break
		}
		return int64(v), nil
	}
	return 0, fmt.Errorf("%q is no size, such as 4096, 64KiB or 256MiB", s)
}

// ageText is a time span in its two largest units.
func ageText(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// sinceText is how long ago t was, "" when it is not known.
func sinceText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return ageText(time.Since(t.AsTime()))
}

// millis is a round trip time in milliseconds.
func millis(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

// plural is "1 stream", "2 streams".
func plural(n int64, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// isTerminal reports whether a person is at the other end of f, an *os.File.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// inPlace reports whether a line written to w can be written over.
func inPlace(w any) bool { return isTerminal(w) && os.Getenv("TERM") != "dumb" }
