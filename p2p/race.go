package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// raceStagger is how long one endpoint has before the next is tried beside it
// (RFC 8305 section 8, "Connection Attempt Delay").
const raceStagger = 250 * time.Millisecond

// race dials endpoints until one answers: the next one starts when the one
// before failed, or after raceStagger. It returns the first connection after
// every other dial has ended; a connection that came too late is closed. dial
// has to heed its context. Without a winner the errors of all are joined.
func race(ctx context.Context, endpoints []Endpoint, dial func(context.Context, Endpoint) (Connection, error)) (Connection, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("p2p: no endpoint to dial")
	}
	ctx, stop := context.WithCancel(ctx)
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		winner  Connection
		faults  = make([]error, len(endpoints))
	)
	defer stop()
	failed := make(chan struct{}, len(endpoints))
	for i, e := range endpoints {
		running.Go(func() {
			conn, err := dial(ctx, e)
			mu.Lock()
			late := err == nil && winner != nil
			switch {
			case err != nil:
				faults[i] = fmt.Errorf("%v: %w", e, err)
			case !late:
				winner = conn
				stop()
			}
			mu.Unlock()
			if late {
				_ = conn.Close()
			}
			if err != nil {
				failed <- struct{}{}
			}
		})
		if i == len(endpoints)-1 {
			break
		}
		next := time.NewTimer(raceStagger)
		select {
		case <-next.C:
		case <-failed:
		case <-ctx.Done():
		}
		next.Stop()
		if ctx.Err() != nil {
			break
		}
	}
	running.Wait()
	if winner != nil {
		return winner, nil
	}
	if err := context.Cause(ctx); err != nil {
		faults = append(faults, err)
	}
	return nil, errors.Join(faults...)
}

// interleave orders endpoints for a race: IPv6 and IPv4 alternate, IPv6 first,
// each family in the order given (RFC 8305 section 4). Endpoints without an IP
// come last.
func interleave(endpoints []Endpoint) []Endpoint {
	var six, four, others []Endpoint
	for _, e := range endpoints {
		switch ip := ipOf(e); {
		case !ip.IsValid():
			others = append(others, e)
		case ip.Is4():
			four = append(four, e)
		default:
			six = append(six, e)
		}
	}
	ordered := make([]Endpoint, 0, len(endpoints))
	for len(six)+len(four) > 0 {
		if len(six) > 0 {
			ordered, six = append(ordered, six[0]), six[1:]
		}
		if len(four) > 0 {
			ordered, four = append(ordered, four[0]), four[1:]
		}
	}
	return append(ordered, others...)
}
