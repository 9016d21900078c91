package cometbft

import (
	"errors"
	"io"
	"os"
	"strconv"
	"testing"
	"time"
)

// A node that pings is answered, and answers, whoever dialled: it would close 45 s
// after its first ping otherwise, which it sends after a minute. Ours come every
// 5 s, and a missing answer closes, too. KITH_INTEROP_MINUTES is how long this goes
// on, at least 2; by default it is until the node's 45 s are over.
func TestPings(t *testing.T) {
	t.Parallel()
	period := 108 * time.Second
	if s := os.Getenv("KITH_INTEROP_MINUTES"); s != "" {
		minutes, err := strconv.Atoi(s)
		if err != nil || minutes < 2 || minutes > 24*60 {
			t.Fatalf("KITH_INTEROP_MINUTES is %q, want a number from 2 to 1440", s)
		}
		period = time.Duration(minutes) * time.Minute
	}
	each(t, 1, func(t *testing.T, n *node, meet meet) {
		s := meet(t, pexChannel, blockChannel)
		end := time.AfterFunc(period, s.Close)
		defer end.Stop()
		start := time.Now()
		var err error
		for err == nil {
			_, _, err = s.Receive()
		}
		if took := time.Since(start); !errors.Is(err, io.EOF) || took < period {
			t.Fatalf("the node hung up after %v: %v", took, err)
		}
		stats := s.Stats()
		// The last of ours may have no answer yet, and a period may be late.
		ours, theirs := int64(period/pingEvery)-2, int64(period/time.Minute)
		if period%time.Minute == 0 {
			theirs--
		}
		if stats.Sent.Pings < ours || stats.Received.Pongs < stats.Sent.Pings-1 || stats.Received.Pings < theirs || stats.Sent.Pongs < stats.Received.Pings-1 || stats.Sent.Pongs < 1 {
			t.Errorf("want %d pings of ours and %d of theirs answered: %+v", ours, theirs, stats)
		}
		t.Logf("%v: %d pings of ours, %d answered; %d of theirs, %d answered", period, stats.Sent.Pings, stats.Received.Pongs, stats.Received.Pings, stats.Sent.Pongs)
	})
}
