package kubo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	replayScript  = "test/sharness/t0180-p2p.sh" // in kubo's module
	replayTimeout = 5 * time.Minute
	replaySteps   = 83  // in that script, with the six of our startup_cluster
	replayGrace   = 250 // times 20 ms
)

// replayNode is what the script has to know of a node.
type replayNode struct {
	pid            int
	id, addr, home string
}

// replayStep is one step of the script and how it went.
type replayStep struct {
	verdict string // ok, failed or left-out
	name    string
	log     string // file with what it printed
}

// replay runs kubo's script, unchanged, over nodes that are already up and
// reports each of its steps as a subtest. The steps in leftOut must exist; they
// are not run.
func replay(t *testing.T, nodeFile string, nodes []replayNode, env []string, leftOut ...string) {
	t.Helper()
	steps := runReplay(t, nodeFile, nodes, env, leftOut)
	var passedOver []string
	for i, step := range steps {
		if step.verdict == "left-out" {
			passedOver = append(passedOver, step.name)
			continue
		}
		t.Run(fmt.Sprintf("%02d %s", i+1, step.name), func(t *testing.T) {
			if step.verdict != "ok" {
				said, _ := os.ReadFile(step.log)
				t.Errorf("%s; the step printed:\n%s", step.verdict, said)
			}
		})
	}
	if !slices.Equal(passedOver, leftOut) {
		t.Errorf("left out %q, want %q", passedOver, leftOut)
	}
}

// runReplay runs the script in a directory of its own and returns its steps.
// nodeFile in testdata/replay says how the script's words reach the nodes.
func runReplay(t *testing.T, nodeFile string, nodes []replayNode, env, leftOut []string) []replayStep {
	t.Helper()
	dir := t.TempDir()
	lib := filepath.Join(dir, "lib")
	if err := os.Mkdir(lib, 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"test-lib.sh": "test-lib.sh", nodeFile: "node.sh"} {
		data, err := os.ReadFile(filepath.Join("testdata", "replay", from))
		if err == nil {
			err = os.WriteFile(filepath.Join(lib, to), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	report := filepath.Join(dir, "report")
	base := []string{
		"PATH=" + linkTools(t) + string(os.PathListSeparator) + os.Getenv("PATH"),
		"IPFS_TELEMETRY=off",
		"GORACE=atexit_sleep_ms=0", // or each tool of a -race run would end a second late
		"REPLAY_REPORT=" + report,
		"REPLAY_LEFT_OUT=" + strings.Join(leftOut, "\n"),
		fmt.Sprintf("GRACE=%d", replayGrace),
		fmt.Sprintf("NODES=%d", len(nodes)),
	}
	for i, n := range nodes {
		base = append(base,
			fmt.Sprintf("NODE_PID%d=%d", i, n.pid),
			fmt.Sprintf("NODE_ID%d=%s", i, n.id),
			fmt.Sprintf("NODE_ADDR%d=%s", i, n.addr),
			fmt.Sprintf("NODE_HOME%d=%s", i, n.home),
		)
	}
	script := filepath.Join(moduleDir(t, "github.com/ipfs/kubo"), filepath.FromSlash(replayScript))
	output := runScript(t, dir, slices.Concat(base, env), script)
	if output != "" {
		t.Logf("outside the steps the script printed:\n%s", output)
	}

	data, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("the script reported nothing: %v", err)
	}
	var steps []replayStep
	finished := false
	for line := range strings.Lines(string(data)) {
		field := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(field) != 3 {
			t.Fatalf("unreadable report line %q", line)
		}
		if field[0] == "done" {
			finished = true
			continue
		}
		steps = append(steps, replayStep{field[0], field[1], field[2]})
	}
	if !finished {
		t.Errorf("the script stopped after %d steps", len(steps))
	}
	if len(steps) != replaySteps {
		t.Errorf("the script took %d steps, not the %d known ones", len(steps), replaySteps)
	}
	return steps
}

// runScript runs a script to its end in dir and ends whatever it left running.
func runScript(t *testing.T, dir string, env []string, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), replayTimeout)
	defer cancel()
	out, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, "bash", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	dieWithParent(cmd)
	err = cmd.Run()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its background pipes, if any
	}
	said, _ := os.ReadFile(out.Name())
	if err != nil {
		t.Errorf("%s: %v (%v)", filepath.Base(script), err, ctx.Err())
	}
	return string(said)
}

// TestReplayOnKubo runs the script on the program it was written for. It must
// pass there, every step: that is what makes the same run on kith mean
// something.
func TestReplayOnKubo(t *testing.T) {
	var nodes []replayNode
	for i := range 3 {
		n := startKubo(t, fmt.Sprintf("kubo-%d", i), false)
		nodes = append(nodes, replayNode{n.cmd.Process.Pid, n.id, n.addr, n.home})
	}
	replay(t, "node_kubo.sh", nodes, []string{"IPFS=" + must(t, ipfsBinary)})
}

// TestReplayNoticesFailure runs the script on nodes that accept every command
// and do nothing: a replay that could not fail would prove nothing.
func TestReplayNoticesFailure(t *testing.T) {
	nodes := make([]replayNode, 3)
	for i := range nodes {
		nodes[i] = replayNode{pid: 1 << 30, id: "nobody", addr: "nowhere", home: t.TempDir()}
	}
	failed := make(map[string]bool)
	for _, step := range runReplay(t, "node_idle.sh", nodes, []string{"GRACE=1"}, nil) {
		if step.verdict == "failed" {
			failed[step.name] = true
		}
	}
	for _, name := range []string{
		"cannot re-register p2p listener",
		"S->C Connect and receive data",
		"S->C Output looks good",
		"C->S Output looks good",
		"cannot accept 0 port in 'ipfs p2p listen'",
		"'ipfs p2p ls' output looks good",
		"'ipfs p2p stream ls' output looks good",
		"'ipfs p2p close' closes right listeners",
		"non /x/ scoped protocols are not allowed",
	} {
		if !failed[name] {
			t.Errorf("step %q passes with nodes that do nothing", name)
		}
	}
}
