package p2p

import (
	"context"
	"errors"
	"fmt"

	"github.com/kith-p2p/kith/internal/race"
)

// dialFirst dials endpoints until one answers, and returns when all its dials
// have. Without a winner the errors of all are joined.
func dialFirst(ctx context.Context, endpoints []Endpoint, dial func(context.Context, Endpoint) (Connection, error)) (Connection, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("p2p: no endpoint to dial")
	}
	conn, won, faults := race.First(ctx, endpoints, dial)
	if won {
		return conn, nil
	}
	for i, err := range faults {
		if err != nil {
			faults[i] = fmt.Errorf("%v: %w", endpoints[i], err)
		}
	}
	return nil, errors.Join(append(faults, context.Cause(ctx))...)
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
