package p2p

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewriteQueues = flag.Bool("rewrite-queues", false, "write what the scripts in testdata/scheduler-*.txt and inbound-*.txt give as what they want")

// runScripts runs each file that matches pattern. A file is a list of blocks:
// command lines, a line of four dashes, and what the commands are to print; an
// empty line ends a block. Lines that begin with # are for the reader.
func runScripts(t *testing.T, pattern string, start func() func(command string, args []string) string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts match %s: %v", pattern, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			run := start()
			var rewritten []string
			for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
				commands, want, hasCommands := strings.Cut(block, "\n----\n")
				if !hasCommands && !strings.HasSuffix(block, "\n----") {
					rewritten = append(rewritten, block) // prose
					continue
				}
				commands = strings.TrimSuffix(commands, "\n----")
				if !hasCommands {
					want = ""
				}
				var got strings.Builder
				for line := range strings.Lines(commands) {
					if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
						continue
					}
					words := strings.Fields(line)
					got.WriteString(run(words[0], words[1:]))
				}
				out := strings.TrimRight(got.String(), "\n")
				if out != want && !*rewriteQueues {
					t.Errorf("%s\ngives\n%s\nwant\n%s", commands, out, want)
				}
				rewritten = append(rewritten, commands+"\n----\n"+out)
			}
			if *rewriteQueues {
				if err := os.WriteFile(file, []byte(strings.Join(rewritten, "\n\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// options reads key=value words.
func scriptOptions(args []string) map[string]string {
	o := map[string]string{}
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok {
			o[k] = v
		}
	}
	return o
}

func scriptNumber(s string, otherwise int) int {
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		panic(err)
	}
	return int(n)
}

func scriptDuration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

// The commands of testdata/scheduler-*.txt:
//
//	total [messages=N] [bytes=N]             a new scheduler
//	channel ID [class=] [priority=] [policy=newest|oldest|block] [messages=] [bytes=] [max=]
//	remove ID
//	send ID SIZE [deadline=DURATION] [times=N] [wait=no]
//	next LIMIT [times=N] [sum]               sum: only the bytes of each channel
//	clock DURATION                           let time pass
//	close, fail
//	stats [ID]
func schedulerScript() func(string, []string) string {
	var (
		now     = time.Hour
		s       *scheduler
		waiters []*sendWaiter
		numbers = map[*sendWaiter]int{}
	)
	run := func(command string, args []string) string {
		o := scriptOptions(args)
		switch command {
		case "total":
			s = newScheduler(queueLimits{scriptNumber(o["messages"], 10_000), scriptNumber(o["bytes"], 1<<20)}, func() time.Duration { return now })
			return ""
		case "channel":
			policy := map[string]SendPolicy{"": 0, "newest": SendDropNewest, "oldest": SendDropOldest, "block": SendBlock}[o["policy"]]
			err := s.add(sendChannel{
				id: ChannelID(scriptNumber(args[0], 0)), class: uint8(scriptNumber(o["class"], 1)), priority: uint8(scriptNumber(o["priority"], 1)), policy: policy,
				limits: queueLimits{scriptNumber(o["messages"], 100), scriptNumber(o["bytes"], 100_000)}, maxMessage: scriptNumber(o["max"], 100_000),
			})
			if err != nil {
				return err.Error() + "\n"
			}
			return ""
		case "remove":
			s.remove(ChannelID(scriptNumber(args[0], 0)))
			return ""
		case "send":
			var deadline time.Duration
			if o["deadline"] != "" {
				deadline = now + scriptDuration(o["deadline"])
			}
			var (
				out   strings.Builder
				order []string
				count = map[string]int{}
				id    = ChannelID(scriptNumber(args[0], 0))
			)
			tally := func(what string) {
				if count[what]++; count[what] == 1 {
					order = append(order, what)
				}
			}
			for range scriptNumber(o["times"], 1) {
				v, reason := s.offer(id, make([]byte, scriptNumber(args[1], 0)), deadline)
				switch {
				case v == accepted:
					tally("queued")
				case v == refused:
					tally("refused: " + reason.String())
				case o["wait"] == "no":
					s.giveUp(id, nil, DropFull)
					out.WriteString("would wait, refused: full\n")
				default:
					w := &sendWaiter{data: make([]byte, scriptNumber(args[1], 0)), deadline: deadline, done: make(chan struct{})}
					s.wait(id, w)
					waiters = append(waiters, w)
					numbers[w] = len(numbers) + 1
					fmt.Fprintf(&out, "sender %d waits\n", numbers[w])
				}
			}
			for _, what := range order {
				switch n := uint64(count[what]); {
				case what != "queued":
					fmt.Fprintf(&out, "%s, %d times\n", what, n)
				case n == 1:
					fmt.Fprintf(&out, "queued #%d\n", s.number)
				default:
					fmt.Fprintf(&out, "queued #%d to #%d\n", s.number-n+1, s.number)
				}
			}
			return strings.ReplaceAll(out.String(), ", 1 times", "")
		case "next":
			var out strings.Builder
			sum := map[ChannelID]int{}
			for range scriptNumber(o["times"], 1) {
				c, ok := s.next(scriptNumber(args[0], 0))
				if !ok {
					out.WriteString("nothing\n")
					break
				}
				sum[c.channel] += len(c.data)
				if args[len(args)-1] == "sum" {
					continue
				}
				end := ""
				if c.eof {
					end = " eof"
				}
				fmt.Fprintf(&out, "%#02x #%d %d bytes%s\n", uint16(c.channel), c.message, len(c.data), end)
			}
			if args[len(args)-1] == "sum" {
				for id := range ChannelID(256) {
					if n, ok := sum[id]; ok {
						fmt.Fprintf(&out, "%#02x %d bytes\n", uint16(id), n)
					}
				}
			}
			return out.String()
		case "clock":
			now += scriptDuration(args[0])
			return ""
		case "close":
			s.close()
			return ""
		case "fail":
			s.fail()
			return ""
		case "stats":
			st := s.stats()
			if len(args) > 0 {
				st, _ = s.statsOf(ChannelID(scriptNumber(args[0], 0)))
			}
			return fmt.Sprintf("offered %d accepted %d written %d (%d bytes) queued %d (%d bytes) dropped: %v\n",
				st.Offered, st.Accepted, st.Written, st.WrittenBytes, st.Queued, st.QueuedBytes, st.Dropped)
		}
		panic("unknown command " + command)
	}
	return func(command string, args []string) string {
		out := run(command, args)
		if err := s.check(); err != nil {
			out += err.Error() + "\n"
		}
		for i := 0; i < len(waiters); i++ {
			select {
			case <-waiters[i].done:
				out += fmt.Sprintf("sender %d is told: %v\n", numbers[waiters[i]], waiters[i].refused)
				waiters = append(waiters[:i], waiters[i+1:]...)
				i--
			default:
			}
		}
		return out
	}
}

func TestSchedulerScripts(t *testing.T) { runScripts(t, "scheduler-*.txt", schedulerScript) }
