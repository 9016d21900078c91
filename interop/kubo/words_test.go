package kubo

import (
	"strings"
	"testing"
)

// TestKithP2PWords gives the same commands to kubo and to kith, each with a
// node of its own, and expects the same words: on standard output to the byte,
// with the peer IDs put aside; on standard error kubo's sentence, around which
// kith may say more; and an exit code that agrees on success. Where
// kith means to differ (a header once and not before every row, targets on unix
// sockets, a word when there is no such stream) this list keeps to what is
// common.
func TestKithP2PWords(t *testing.T) {
	kubo := startKubo(t, "kubo", true)
	kith := startKith(t, "kith")
	target, other := tcpMaddr(freePort(t)), tcpMaddr(freePort(t))
	// Stand-ins in the lines below: each node's own peer ID, and a port of this
	// machine for each, which five digits keep the same width in a table.
	const self, local = "SELF", "LOCAL"
	kuboLocal, kithLocal := tcpMaddr(freePort(t)), tcpMaddr(freePort(t))
	const noPeer = "/p2p/12D3KooWDmCEbEWhtuh8TnpShvWVQYUNvDuZQ6mx1o9HnA3yjY8v"

	for _, step := range []struct {
		line     string
		onlyCode bool // the text of the error is a library's
	}{
		{line: "p2p ls"},
		{line: "p2p stream ls"},
		{line: "p2p listen /x/a " + tcpMaddr(0)},
		{line: "p2p listen /y/a " + target},
		{line: "p2p listen /x/a junk", onlyCode: true},
		{line: "p2p listen /x/a", onlyCode: true},
		{line: "p2p forward /y/a " + local + " " + noPeer},
		{line: "p2p forward /x/a " + local + " junk", onlyCode: true},
		{line: "p2p forward /x/a junk " + noPeer, onlyCode: true},
		{line: "p2p forward /x/a " + local, onlyCode: true},
		{line: "p2p ls"},
		{line: "p2p listen /x/a " + target},
		{line: "p2p listen /x/a " + other},
		{line: "p2p ls"},
		{line: "p2p ls -v"},
		{line: "p2p ls --headers"},
		{line: "p2p forward /x/longer " + local + " " + noPeer},
		{line: "p2p forward /x/other " + local + " " + noPeer, onlyCode: true},
		{line: "p2p ls"},
		{line: "p2p close"},
		{line: "p2p close -a -p /x/a"},
		{line: "p2p close --all --target-address " + target},
		{line: "p2p close -l junk", onlyCode: true},
		{line: "p2p close -p /x/none"},
		{line: "p2p close -p /x/a -t " + other},
		{line: "p2p close -p /x/a -t " + target + " -l /p2p/" + self},
		{line: "p2p ls"},
		{line: "p2p close --listen-address " + local},
		{line: "p2p ls"},
		{line: "p2p listen /x/ " + target},
		{line: "p2p listen /x/a/b " + target},
		{line: "p2p listen --allow-custom-protocol /mine/1.0 " + target},
		{line: "p2p close --all"},
		{line: "p2p ls"},
		{line: "p2p stream close"},
		{line: "p2p stream close abc", onlyCode: true},
		{line: "p2p stream close -a"},
	} {
		says := func(run func(*testing.T, ...string) result, id, port string, more ...string) result {
			own := strings.NewReplacer(self, id, local, port)
			r := run(t, append(strings.Fields(own.Replace(step.line)), more...)...)
			general := strings.NewReplacer(id, self, port, local)
			r.stdout, r.stderr = general.Replace(r.stdout), general.Replace(r.stderr)
			return r
		}
		want := says(kubo.run, kubo.id, kuboLocal)
		var got result
		if strings.HasPrefix(step.line, "p2p listen ") {
			got = says(kith.run, kith.id, kithLocal, "--allow-any")
		} else {
			got = says(kith.run, kith.id, kithLocal)
		}
		if (want.code == 0) != (got.code == 0) {
			t.Errorf("%s: exit code %d, kubo's is %d; kith says %q", step.line, got.code, want.code, got.stderr)
		}
		if want.code != 0 && got.stderr == "" {
			t.Errorf("%s: refused without a word", step.line)
		}
		if step.onlyCode {
			continue
		}
		if got.stdout != want.stdout {
			t.Errorf("%s: prints %q, kubo %q", step.line, got.stdout, want.stdout)
		}
		if !strings.Contains(got.stderr, strings.TrimPrefix(strings.TrimSpace(want.stderr), "Error: ")) {
			t.Errorf("%s: error %q, kubo's is %q", step.line, got.stderr, want.stderr)
		}
	}
}

// TestKithP2PDiffers is where kith means to differ: one header for a table, and
// no silence about a stream that is not there.
func TestKithP2PDiffers(t *testing.T) {
	kith := startKith(t, "kith")
	for _, name := range []string{"/x/a", "/x/b", "/x/c"} {
		kith.do(t, "p2p", "listen", name, tcpMaddr(freePort(t)), "--allow-any")
	}
	got := kith.do(t, "p2p", "ls", "-v")
	if strings.Count(got, "Protocol") != 1 || strings.Count(got, "\n") != 4 {
		t.Errorf("want three mounts under one header, got:\n%s", got)
	}
	if r := kith.run(t, "p2p", "stream", "close", "99"); r.code == 0 || !strings.Contains(r.stderr, "99") {
		t.Errorf("closing a stream that is not there: exit code %d, %q", r.code, r.stderr)
	}
}
