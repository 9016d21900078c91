package rpc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Enough says how many good answers a call to many peers needs: First, Quorum,
// All, or a number of one's own.
type Enough func(peers int) int

// First needs one.
func First(int) int { return 1 }

// Quorum needs more than half.
func Quorum(peers int) int { return peers/2 + 1 }

// All needs every peer's.
func All(peers int) int { return peers }

// AtLeast needs n.
func AtLeast(n int) Enough { return func(int) int { return n } }

// Result is what one of many peers answered.
type Result[T any] struct {
	Peer  peer.ID
	Value T
	Err   error
}

// manyAtOnce bounds the calls of one CallMany that are under way at one time.
const manyAtOnce = 64

// CallMany makes the same call to many peers at once and returns when enough
// have given a good answer, or cannot any more. It cancels the calls that are
// left then, but with All, where every peer is heard out. Results are in the
// order in which they came, good and bad; a peer that was cancelled has none. A
// peer that is named twice is called once. If there were not enough, the error
// is an *Error with the code of most failures, and errors.Is finds each; no
// peers at all are CodeInvalidArgument. Requests are made at most 64 at a time.
func CallMany[Resp, Req any](ctx context.Context, c *Client, peers []peer.ID, id protocol.ID, req Req, enough Enough, opts ...CallOption) ([]Result[Resp], error) {
	peers = slices.Compact(slices.Sorted(slices.Values(peers)))
	need := enough(len(peers))
	if need < 1 || need > len(peers) {
		return nil, callErrorf(CodeInvalidArgument, "%d good answers needed of %d peers", need, len(peers))
	}
	var (
		results  []Result[Resp]
		failures []error
		good     int
	)
	for r := range each[Resp](ctx, c, peers, id, req, opts) {
		results = append(results, r)
		if r.Err == nil {
			good++
		} else {
			failures = append(failures, r.Err)
		}
		if need < len(peers) && (good == need || len(failures) > len(peers)-need) {
			break
		}
	}
	if good >= need {
		return results, nil
	}
	return results, &Error{Code: commonest(failures), cause: errors.Join(failures...), inner: true,
		Message: fmt.Sprintf("%d good answers of %d peers, %d needed", good, len(peers), need)}
}

// each calls all peers and yields results as they come. When it is left early
// it cancels the rest, and waits for it.
func each[Resp, Req any](ctx context.Context, c *Client, peers []peer.ID, id protocol.ID, req Req, opts []CallOption) iter.Seq[Result[Resp]] {
	return func(yield func(Result[Resp]) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		out := make(chan Result[Resp], len(peers))
		next := make(chan peer.ID, len(peers))
		for _, p := range peers {
			next <- p
		}
		close(next)
		for range min(manyAtOnce, len(peers)) {
			wg.Go(func() {
				for p := range next {
					v, err := Call[Resp](ctx, c, p, id, req, opts...)
					out <- Result[Resp]{p, v, err}
				}
			})
		}
		for range peers {
			if !yield(<-out) {
				return
			}
		}
	}
}

// commonest is the code that most errors have.
func commonest(errs []error) Code {
	count := map[Code]int{}
	best := CodeUnknown
	for _, err := range errs {
		code := CodeOf(err)
		if count[code]++; count[code] > count[best] || count[best] == 0 {
			best = code
		}
	}
	return best
}
