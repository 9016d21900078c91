package interop

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The shells themselves read the completion scripts, without running them.
func TestShellsParseCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		script, err := exec.CommandContext(ctx, kithBinary, "completion", shell).Output()
		if err != nil {
			t.Fatal(err)
		}
		parse := func(script string) ([]byte, error) {
			cmd := exec.CommandContext(ctx, shell, "-n")
			cmd.Stdin = strings.NewReader(script)
			return cmd.CombinedOutput()
		}
		if out, err := parse(string(script)); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
		// The canary: half a script is none.
		if _, err := parse(string(script) + "\nif true\n"); err == nil {
			t.Errorf("%s takes whatever it is given", shell)
		}
	}
}
