package btcd

import (
	"slices"
	"strings"
	"testing"
)

// A check that cannot fail checks nothing: each fault is put into the adapter,
// and the suite has to find it, in the test named.
func TestCanary(t *testing.T) {
	theirs := runTests(t, ".", "github.com/btcsuite/btcd/connmgr", "-count=1")
	for _, c := range []struct{ name, test, from, to string }{
		{"one connection too many", "TestTargetOutbound",
			"own.Listeners = nil", "own.Listeners = nil\n\town.TargetOutbound++"},
		{"removed requests are dialled again", "TestRemovePendingConnection",
			"// look keeps", "func (cm *ConnManager) Remove(id uint64) {}\n\n// look keeps"},
		{"no limit on inbound connections", "TestInboundLimit",
			"own.Listeners = nil", "own.Listeners = nil\n\town.MaxInbound = nil"},
		{"Stop tells of disconnections", "TestStartStop",
			"// look keeps", "func (cm *ConnManager) Stop() { cm.DisconnectAll(); time.Sleep(5 * time.Millisecond); cm.ConnManager.Stop() }\n\n" +
				"func (cm *ConnManager) DisconnectAll() {\n\tfor _, r := range cm.Inspect().Requests {\n\t\tcm.Disconnect(r.ID)\n\t}\n}\n\n// look keeps"},
		{"a place is given back twice", "TestInboundLimit",
			"leave: sync.OnceFunc(func() { <-cm.inboundSlots })", "leave: func() { <-cm.inboundSlots }"},
		{"scores do not decay", "TestDynamicBanScoreDecay",
			"return s.IntAt(t)", "return s.IntAt(t.Add(-1000 * time.Hour)) + 50"},
		{"an adapter that does not compile", "TestNewConfig",
			"package connmgr\n", "package connmgr\n\nvar _ = undefined\n"},
		{"a crash", "TestTargetOutbound",
			"own := *cfg", "own := *cfg\n\tif cfg.MaxInbound != nil {\n\t\tpanic(\"canary\")\n\t}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := scratch(t, func(adapter string) string {
				if strings.Count(adapter, c.from) != 1 {
					t.Fatalf("the adapter has %q %d times", c.from, strings.Count(adapter, c.from))
				}
				return strings.Replace(adapter, c.from, c.to, 1)
			})
			ours := runTests(t, dir, ".", "-count=1", "-timeout=10s")
			_, faults := judge(ours, theirs, 1)
			if !slices.ContainsFunc(faults, func(f string) bool { return strings.HasPrefix(f, c.test+":") }) {
				t.Errorf("%s does not find it; faults: %q\n%s", c.test, faults, ours.output)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	b := func(pass, fail int) run {
		return run{results: map[string]result{"TestA": {pass: pass, fail: fail}}, ok: fail == 0}
	}
	for _, c := range []struct {
		name            string
		ours, theirs    run
		excused, faults int
	}{
		{"all passed", b(20, 0), b(20, 0), 0, 0},
		{"btcd fails, kith does not", b(20, 0), b(19, 1), 0, 0},
		{"both fail", b(18, 2), b(19, 1), 1, 0},
		{"kith fails", b(19, 1), b(20, 0), 0, 1},
		{"kith did not run it often enough", b(19, 0), b(20, 0), 0, 1},
		{"kith skips it", run{results: map[string]result{"TestA": {pass: 20, skip: 1}}, ok: true}, b(20, 0), 0, 1},
		{"kith ran nothing", run{}, b(20, 0), 0, 2},
		{"the race detector, after the tests", run{results: b(20, 0).results}, b(20, 0), 0, 1},
		{"btcd ran nothing", b(20, 0), run{}, 0, 1},
	} {
		excused, faults := judge(c.ours, c.theirs, 20)
		if len(excused) != c.excused || len(faults) != c.faults {
			t.Errorf("%s: excused %q, faults %q", c.name, excused, faults)
		}
	}
}

func TestParse(t *testing.T) {
	r := parse([]byte(`{"Action":"run","Test":"TestA"}
not an event
{"Action":"output","Test":"TestA","Output":"hello\n"}
{"Action":"pass","Test":"TestA/sub"}
{"Action":"pass","Test":"TestA"}
{"Action":"fail","Test":"TestA"}
{"Action":"skip","Test":"TestB"}
{"Action":"fail"}
`))
	if r.results["TestA"] != (result{pass: 1, fail: 1}) || r.results["TestB"] != (result{skip: 1}) || len(r.results) != 2 || r.output != "hello\n" {
		t.Errorf("%+v", r)
	}
}
