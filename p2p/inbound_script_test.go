package p2p

import (
	"fmt"
	"testing"
)

// The commands of testdata/inbound-*.txt:
//
//	queue policy=newest|oldest|pause [messages=N] [bytes=N] [all-messages=N] [all-bytes=N]
//	push PEER SIZE [times=N]
//	receive [times=N]
//	forget PEER, discard PEER, giveup N, close, stats, peers
func inboundScript() func(string, []string) string {
	var (
		q       *inbound
		waiters []*inboundWaiter
		told    = map[*inboundWaiter]bool{}
	)
	run := func(command string, args []string) string {
		o := scriptOptions(args)
		out := ""
		switch command {
		case "queue":
			policy := map[string]ReceivePolicy{"newest": ReceiveDropNewest, "oldest": ReceiveDropOldest, "pause": ReceivePause}[o["policy"]]
			perPeer := queueLimits{scriptNumber(o["messages"], 100), scriptNumber(o["bytes"], 10_000)}
			waiters = nil
			q = newInbound(policy, perPeer, queueLimits{scriptNumber(o["all-messages"], 1000), scriptNumber(o["all-bytes"], 100_000)})
		case "push":
			for range scriptNumber(o["times"], 1) {
				data := make([]byte, scriptNumber(args[1], 0))
				switch v, reason := q.push(NodeID(args[0]), data); v {
				case refused:
					out += fmt.Sprintf("%s: dropped, %v\n", args[0], reason)
				case mustWait:
					waiters = append(waiters, q.wait(NodeID(args[0]), data))
					out += fmt.Sprintf("%s: read loop %d waits\n", args[0], len(waiters))
				}
			}
		case "receive":
			for range scriptNumber(o["times"], 1) {
				id, data, ok := q.pop()
				if !ok {
					out += "nothing\n"
					break
				}
				out += fmt.Sprintf("%d bytes of %s\n", len(data), id)
			}
		case "forget":
			q.forget(NodeID(args[0]))
		case "discard":
			out = fmt.Sprintf("%d discarded\n", q.discard(NodeID(args[0])))
		case "giveup":
			q.giveUp(waiters[scriptNumber(args[0], 0)-1])
		case "close":
			q.close()
		case "peers":
			out = fmt.Sprintf("%d peers known\n", len(q.peers))
		case "stats":
			st := q.count()
			out = fmt.Sprintf("received %d delivered %d queued %d (%d bytes) paused %d dropped: %v\n",
				st.Received, st.Delivered, st.Queued, st.QueuedBytes, st.Paused, st.Dropped)
		default:
			panic("unknown command " + command)
		}
		return out
	}
	return func(command string, args []string) string {
		out := run(command, args)
		if err := q.check(); err != nil {
			out += err.Error() + "\n"
		}
		for i, w := range waiters {
			select {
			case <-w.done:
				if !told[w] {
					out += fmt.Sprintf("read loop %d is told: %v\n", i+1, w.refused)
				}
				told[w] = true
			default:
			}
		}
		return out
	}
}

func TestInboundScripts(t *testing.T) { runScripts(t, "inbound-*.txt", inboundScript) }
