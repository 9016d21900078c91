package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings is how much is measured.
type settings struct {
	quick    bool
	pairs    int           // of a comparison
	most     int           // pairs when the median is close to the bar
	size     int           // bytes of a transfer
	conns    int           // connections of a pair of the connect row
	many     int           // connections at once
	rounds   int           // of the many row
	window   time.Duration // of one side of a turn, where a side works for a time
	echoes   int           // round trips of one side of a turn
	gossips  int           // messages published in a round of the dispatch row
	hosts    int           // that they go to
	kithPath string        // empty: build it
	against  string        // a kith binary in the place of kubo
	prof     string        // directory for profiles
}

var (
	full = settings{pairs: 15, most: 60, size: 256 << 20, conns: 500, many: 3000, rounds: 3,
		window: 250 * time.Millisecond, echoes: 2000, gossips: 100, hosts: 50}
	quick = settings{quick: true, pairs: 2, most: 2, size: 8 << 20, conns: 25, many: 200, rounds: 1,
		window: 10 * time.Millisecond, echoes: 100, gossips: 5, hosts: 10}
)

// rows lists every row in the order of the table. The rows from kubo on need
// both kinds of daemons; each is a function that measures and reports.
var rows = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"stream", streamRow},
	{"bound", boundRow},
	{"kubo", kuboRow},
	{"connect", connectRow},
	{"rss", rssRow},
	{"many", manyRow},
	{"mconn", mconnRow},
	{"echo", echoRow},
	{"rpc", rpcRow},
	{"router", routerRow},
	{"dispatch", dispatchRow},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	missed, err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	case missed:
		os.Exit(1)
	}
}

// run measures and prints. missed is true when a bar was missed and --strict
// asks that this be a failure.
func run(ctx context.Context, args []string) (missed bool, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	short := flags.Bool("quick", false, "smoke run: few pairs, small sizes; proves that the program works, not how fast kith is")
	asJSON := flags.Bool("json", false, "print JSON instead of a Markdown table")
	strict := flags.Bool("strict", false, "exit with 1 when a bar is missed")
	pairs := flags.Int("pairs", 0, "pairs of each comparison (default 15, and on to 60 when the median is within 5 % of its bar)")
	kith := flags.String("kith", "", "kith binary to measure (default: built from this repository)")
	against := flags.String("against", "", "another kith binary to measure in the place of kubo: what has a change brought? The bars do not apply")
	prof := flags.String("profile", "", "directory for CPU and allocation profiles of kith's side of the stream and bound rows")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: go run . [flags] [row...]\nrows:", strings.Join(rowNames(), ", "))
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	set := full
	if *short {
		set = quick
	}
	if *pairs > 0 {
		set.pairs, set.most = *pairs, max(*pairs, set.most)
	}
	set.kithPath, set.against, set.prof = *kith, *against, *prof

	wanted := flags.Args()
	for _, name := range wanted {
		if !slices.Contains(rowNames(), name) {
			return false, fmt.Errorf("there is no row %q; rows are %s", name, strings.Join(rowNames(), ", "))
		}
	}
	dir, err := os.MkdirTemp("", "kb") // short: unix sockets have short paths
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)

	b := &bench{settings: set, dir: dir, progress: os.Stderr}
	defer func() { err = errors.Join(err, b.stop()) }()
	b.report.Machine = machineFacts(ctx)
	for _, r := range rows {
		if len(wanted) > 0 && !slices.Contains(wanted, r.name) {
			continue
		}
		if err = r.run(ctx, b); err != nil {
			err = fmt.Errorf("row %s: %w", r.name, err)
			break // and print the rows before it
		}
	}
	b.report.Machine.LoadAfter = loadAverage()
	b.report.Quick = set.quick
	write := b.report.writeMarkdown
	if *asJSON {
		write = b.report.writeJSON
	}
	if len(b.report.Rows) > 0 {
		err = errors.Join(err, write(os.Stdout))
	}
	return *strict && !b.report.met(), err
}

func rowNames() []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}
