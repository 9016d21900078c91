package connmgr

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// epoch is when scripts and properties begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A gateScript executes the scripts of the gate: it holds one gate, a clock,
// and permits by name.
type gateScript struct {
	t       *testing.T
	g       *gate
	now     time.Time
	permits map[string]*permit
	last    *Refusal
}

func startGateScript(t *testing.T) func(step) string {
	s := &gateScript{t: t, now: epoch, permits: make(map[string]*permit)}
	return s.execute
}

func (s *gateScript) execute(st step) string {
	switch st.command() {
	case "limits":
		s.g = newGate(s.limits(st))
		clear(s.permits)
		return "ok"
	case "default-limits":
		s.g = newGate(DefaultLimits())
		return "ok"
	case "arrive", "dial":
		who, where := st.args()[0], origin{}
		if st.args()[1] != "somewhere" {
			where = s.origin(st.args()[1])
		}
		p := &permit{origin: where}
		var r *Refusal
		if st.command() == "dial" {
			p.direction = Outbound
			r = s.g.dial(p)
		} else {
			r = s.g.arrive(p, s.now, s.float(st.arg("roll", "0.999")))
		}
		if r == nil {
			s.permits[who] = p
		}
		return s.answer(r, map[string]string{"arrive": who + " may shake hands", "dial": who + " may be dialled"}[st.command()])
	case "reached":
		return s.answer(s.g.move(s.permits[st.args()[0]], s.origin(st.args()[1])), "it counts there")
	case "establish":
		return s.answer(s.g.establish(s.permits[st.args()[0]], st.arg("as", "")), st.args()[0]+" is in")
	case "close":
		for _, who := range st.args() {
			s.g.release(s.permits[who])
		}
		return s.counts()
	case "counts":
		return s.counts()
	case "explain":
		return explain(s.last)
	case "wait":
		d, err := time.ParseDuration(st.args()[0])
		if err != nil {
			s.t.Fatal(st.pos, err)
		}
		s.now = s.now.Add(d)
		return s.now.Sub(epoch).String() + " since the start"
	case "crowd":
		return s.crowd(st)
	case "flood":
		s.g.flood.update(s.now)
		f := &s.g.flood
		if !f.active {
			return fmt.Sprintf("calm, %d attempts in the last minute", f.meter.sum)
		}
		return fmt.Sprintf("flood, %d attempts in the last minute, %.0f %% are dropped", f.meter.sum, 100*f.chance())
	}
	s.t.Fatalf("%s: no command %q", st.pos, st.command())
	return ""
}

// crowd: n arrivals, each from an address of its own in turn (* and + count
// up), evenly over a time, that leave at once, or are established and stay. Of
// ten in a row one rolls so low that a chance of 10 % drops it, and so on.
func (s *gateScript) crowd(st step) string {
	n := s.int(st.args()[0])
	over, err := time.ParseDuration(st.arg("over", "0s"))
	if err != nil {
		s.t.Fatal(st.pos, err)
	}
	from := strings.Split(st.arg("from", ""), ",")
	in, out := 0, make(map[string]int)
	start := s.now
	for i := range n {
		s.now = start.Add(over * time.Duration(i+1) / time.Duration(n))
		ip := strings.ReplaceAll(from[i%len(from)], "*", strconv.Itoa(i%250+1))
		ip = strings.ReplaceAll(ip, "+", strconv.Itoa(i/250%250+1))
		p := &permit{origin: s.origin(ip)}
		r := s.g.arrive(p, s.now, float64(i%10)/10)
		if r == nil && st.has("stay") {
			r = s.g.establish(p, "")
		}
		if r != nil || !st.has("stay") {
			s.g.release(p)
		}
		if r != nil {
			s.last = r
			out[r.Rule.String()]++
		} else {
			in++
		}
	}
	text := fmt.Sprintf("%d came in", in)
	for _, rule := range slices.Sorted(maps.Keys(out)) {
		text += fmt.Sprintf(", %d refused by %s", out[rule], rule)
	}
	return text
}

func (s *gateScript) answer(r *Refusal, yes string) string {
	if r == nil {
		return yes
	}
	s.last = r
	return fmt.Sprintf("refused by %s: %s", r.Rule, r.reason())
}

func (s *gateScript) counts() string {
	g := s.g
	text := fmt.Sprintf("%d in, %d out, %d shaking hands", g.direction[Inbound], g.direction[Outbound], g.pending)
	for r, n := range g.refused {
		if n > 0 {
			text += fmt.Sprintf(", %d refused by %s", n, Rule(r))
		}
	}
	return text
}

func (s *gateScript) origin(ip string) origin {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		s.t.Fatal(err)
	}
	return originOf(a, AddressGroup)
}

func (s *gateScript) int(v string) int {
	if v == "none" {
		return None
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *gateScript) float(v string) float64 {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

func (s *gateScript) limits(st step) Limits {
	n := func(key string) int { return s.int(st.arg(key, "0")) }
	l := Limits{
		Total:   n("total"),
		Inbound: Share{n("inbound"), n("per-host"), n("per-prefix"), n("per-group")},
		Outbound: Share{n("outbound"), n("out-per-host"), n("out-per-prefix"),
			n("out-per-group")},
		Pending: n("pending"), PendingPerHost: n("pending-per-host"),
		Rate: s.float(st.arg("rate", "0")), Burst: n("burst"), Sources: n("sources"),
		FloodRate: n("flood-rate"), FloodMax: n("flood-max"),
		RefuseDuplicates: st.has("refuse-duplicates"), Evict: st.has("evict"), ExemptLoopback: st.has("exempt-loopback"),
	}
	if err := l.Validate(); err != nil {
		s.t.Fatal(st.pos, err)
	}
	return l
}

func TestGateScripts(t *testing.T)  { runScripts(t, "gate-*.txt", startGateScript) }
func TestFloodScripts(t *testing.T) { runScripts(t, "flood-*.txt", startGateScript) }

// A dumbGate is the gate's twin: a list of what is there, counted anew for
// every question.
type dumbGate struct {
	l  Limits
	in []*dumbPermit
}

type dumbPermit struct {
	d               Direction
	o               origin
	counted         bool // by address: not after a move that was refused
	placed, pending bool
	id              string
}

func (g *dumbGate) count(f func(*dumbPermit) bool) (n int) {
	for _, p := range g.in {
		if f(p) {
			n++
		}
	}
	return n
}

// rule is the first rule that speaks against p, 0 for none.
func (g *dumbGate) byAddress(p *dumbPermit) Rule {
	s := g.l.Inbound
	if p.d == Outbound {
		s = g.l.Outbound
	}
	if !p.o.known() || g.l.ExemptLoopback && p.o.ip.IsLoopback() {
		return 0
	}
	near := func(same func(a, b origin) bool) int {
		return g.count(func(q *dumbPermit) bool { return q.d == p.d && q.counted && same(q.o, p.o) })
	}
	switch {
	case over(s.PerHost, near(func(a, b origin) bool { return a.ip == b.ip })):
		return RuleHost
	case over(s.PerPrefix, near(func(a, b origin) bool { return a.prefix == b.prefix })):
		return RulePrefix
	case over(s.PerGroup, near(func(a, b origin) bool { return a.group == b.group })):
		return RuleGroup
	}
	return 0
}

func (g *dumbGate) full(p *dumbPermit) Rule {
	s := g.l.Inbound
	if p.d == Outbound {
		s = g.l.Outbound
	}
	switch {
	case over(s.Total, g.count(func(q *dumbPermit) bool { return q.d == p.d && q.placed })):
		return RuleDirection
	case over(g.l.Total, g.count(func(q *dumbPermit) bool { return q.placed })):
		return RuleTotal
	}
	return 0
}

func (g *dumbGate) arrive(p *dumbPermit) Rule {
	if over(g.l.Pending, g.count(func(q *dumbPermit) bool { return q.pending })) {
		return RulePending
	}
	if p.o.known() && !(g.l.ExemptLoopback && p.o.ip.IsLoopback()) &&
		over(g.l.PendingPerHost, g.count(func(q *dumbPermit) bool { return q.pending && q.o.ip == p.o.ip })) {
		return RulePendingHost
	}
	if p.o.known() && !(g.l.ExemptLoopback && p.o.ip.IsLoopback()) && g.l.Pending > 0 {
		crowd := g.count(func(q *dumbPermit) bool { return q.pending && q.o.known() && q.o.group == p.o.group })
		if crowd >= g.l.Pending-g.count(func(q *dumbPermit) bool { return q.pending }) {
			return RulePendingGroup
		}
	}
	r := g.byAddress(p)
	if r == 0 && !g.l.Evict {
		r = g.full(p)
	}
	if r == 0 {
		p.pending, p.placed, p.counted = true, !g.l.Evict, p.o.known()
		g.in = append(g.in, p)
	}
	return r
}

func (g *dumbGate) dial(p *dumbPermit) Rule {
	r := g.byAddress(p)
	if r == 0 {
		r = g.full(p)
	}
	if r == 0 {
		p.placed, p.counted = true, p.o.known()
		g.in = append(g.in, p)
	}
	return r
}

func (g *dumbGate) establish(p *dumbPermit, id string) Rule {
	if g.l.RefuseDuplicates && id != "" && g.count(func(q *dumbPermit) bool { return q.id == id }) > 0 {
		return RuleDuplicate
	}
	if !p.placed {
		if r := g.full(p); r != 0 {
			return r
		}
	}
	p.placed, p.pending, p.id = true, false, id
	return 0
}

func ruleOf(r *Refusal) Rule {
	if r == nil {
		return 0
	}
	return r.Rule
}

// The gate answers as a twin that counts everything anew, and at the end, when
// all permits are released (some twice), holds nothing.
func TestGateAgreesWithItsTwin(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		limit := func(most int) int {
			switch r.IntN(4) {
			case 0:
				return 0
			case 1:
				return r.IntN(most+1) - 1 // None, rarely
			}
			return 1 + r.IntN(most)
		}
		l := Limits{
			Total: limit(20), Inbound: Share{limit(14), limit(3), limit(5), limit(8)},
			Outbound: Share{limit(10), limit(3), limit(5), limit(8)}, Pending: limit(6), PendingPerHost: limit(2),
			RefuseDuplicates: r.IntN(2) == 0, Evict: r.IntN(2) == 0, ExemptLoopback: r.IntN(2) == 0,
		}
		g, twin := newGate(l), &dumbGate{l: l}
		type pair struct {
			p     *permit
			q     *dumbPermit
			moved bool
		}
		var all []pair
		addresses := func() origin {
			switch r.IntN(8) {
			case 0:
				return origin{}
			case 1:
				return originOf(netip.AddrFrom4([4]byte{127, 0, 0, byte(r.IntN(3))}), AddressGroup)
			case 2:
				return originOf(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, byte(r.IntN(2)), 15: byte(r.IntN(3))}), AddressGroup)
			}
			return originOf(netip.AddrFrom4([4]byte{192, byte(r.IntN(2)), byte(r.IntN(3)), byte(r.IntN(4))}), AddressGroup)
		}
		for i := range 400 {
			var got, want Rule
			switch op := r.IntN(10); {
			case op < 4 || len(all) == 0:
				o := addresses()
				p, q := &permit{direction: Direction(op % 2), origin: o}, &dumbPermit{d: Direction(op % 2), o: o}
				if p.direction == Inbound {
					got, want = ruleOf(g.arrive(p, epoch, 0.5)), twin.arrive(q)
				} else {
					got, want = ruleOf(g.dial(p)), twin.dial(q)
				}
				if got == 0 && want == 0 {
					all = append(all, pair{p, q, false})
				}
			case op < 7:
				k := all[r.IntN(len(all))]
				if k.p.identity != "" || k.q.id != "" || k.p.direction == Inbound && !k.p.pending {
					continue // once only
				}
				id := ""
				if r.IntN(3) > 0 {
					id = strconv.Itoa(r.IntN(6))
				}
				got, want = ruleOf(g.establish(k.p, id)), twin.establish(k.q, id)
			case op < 8:
				k := &all[r.IntN(len(all))]
				if k.p.direction == Inbound || k.moved {
					continue
				}
				to := addresses()
				k.moved = true
				got = ruleOf(g.move(k.p, to))
				if to.known() && to.ip != k.q.o.ip {
					k.q.o, k.q.counted = to, false
					want = twin.byAddress(k.q)
					k.q.counted = want == 0
				}
			default:
				j := r.IntN(len(all))
				g.release(all[j].p)
				g.release(all[j].p) // as often as one likes
				if id := all[j].q.id; id != "" && g.ids[id] != twin.count(func(q *dumbPermit) bool { return q.id == id })-1 {
					t.Fatalf("seed %d, step %d: %d hold %s", seed, i, g.ids[id], id)
				}
				twin.in = slices.DeleteFunc(twin.in, func(q *dumbPermit) bool { return q == all[j].q })
				all = slices.Delete(all, j, j+1)
			}
			if got != want {
				t.Fatalf("seed %d, step %d: the gate says %v, its twin %v, with %+v", seed, i, got, want, l)
			}
			if placed := twin.count(func(q *dumbPermit) bool { return q.placed }); g.total != placed || g.direction[0]+g.direction[1] != placed {
				t.Fatalf("seed %d, step %d: %d places taken of %v, twin %d", seed, i, g.total, g.direction, placed)
			}
			if pending := twin.count(func(q *dumbPermit) bool { return q.pending }); g.pending != pending {
				t.Fatalf("seed %d, step %d: %d pending, twin %d", seed, i, g.pending, pending)
			}
			if l.Total > 0 && g.total > l.Total || l.Inbound.Total > 0 && g.direction[Inbound] > l.Inbound.Total {
				t.Fatalf("seed %d, step %d: above the cap", seed, i)
			}
		}
		for _, k := range all {
			g.release(k.p)
		}
		left := len(g.hosts[0]) + len(g.hosts[1]) + len(g.prefixes[0]) + len(g.prefixes[1]) + len(g.groups[0]) + len(g.groups[1]) + len(g.ids) + len(g.handshake) + len(g.crowd)
		if g.total != 0 || g.direction != [2]int{} || g.pending != 0 || left != 0 {
			t.Fatalf("seed %d: after all left, %d, %v, %d and %d entries are held", seed, g.total, g.direction, g.pending, left)
		}
	}
}

// An address that only wraps another is counted as that one.
func TestGateSeesThroughWrappedAddresses(t *testing.T) {
	g := newGate(Limits{Inbound: Share{PerHost: 1}})
	for i, ip := range []string{"192.0.2.1", "::ffff:192.0.2.1", "64:ff9b::c000:201", "2002:c000:0201::1", "2002:c000:0201:5::9"} {
		r := g.arrive(&permit{origin: originOf(netip.MustParseAddr(ip), AddressGroup)}, epoch, 0.9)
		if (r == nil) != (i == 0) {
			t.Errorf("%s: %v", ip, r)
		}
	}
}
