package connmgr_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/kith-p2p/kith/connmgr"
)

// once is the smallest policy: it names one target, once.
type once struct{ named bool }

func (p *once) Next(time.Time) (d connmgr.Dial[string], wake time.Time, ok bool) {
	if p.named {
		return d, wake, false // and no time: until Wake
	}
	p.named = true
	return connmgr.Dial[string]{Target: "alice", Kind: connmgr.KindManual}, wake, true
}

func (p *once) Ended(d connmgr.Dial[string], o connmgr.Outcome) {
	fmt.Printf("the dial to %s has ended, it was up: %v\n", d.Target, o.Established)
}

func (p *once) Victim(all []connmgr.Candidate) (uint64, bool) { return connmgr.LeastUseful(all) }

// An engine with a policy of one's own: dial, run the connection, stop.
func ExampleEngine() {
	ctx, stop := context.WithCancel(context.Background())
	e, err := connmgr.NewEngine(connmgr.EngineConfig[string, net.Conn]{
		Policy: &once{},
		Dial: func(context.Context, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				io.WriteString(theirs, "hello")
				theirs.Close()
			}()
			return ours, nil
		},
		Connected: func(c *connmgr.Conn[string, net.Conn]) {
			defer c.CloseWith(io.EOF) // whoever reads closes
			text, _ := io.ReadAll(c.Raw())
			fmt.Printf("%s says %s\n", c.Dial().Target, text)
		},
		Disconnected: func(c *connmgr.Conn[string, net.Conn], cause error) {
			fmt.Println("down:", cause)
			stop()
		},
		Limits: connmgr.Limits{Outbound: connmgr.Share{Total: 8}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ended:", e.Run(ctx))
	// Output:
	// alice says hello
	// the dial to alice has ended, it was up: true
	// down: EOF
	// ended: <nil>
}
