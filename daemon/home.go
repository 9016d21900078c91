package daemon

import (
	"fmt"
	"os"
	"path/filepath"
)

// HomeVariable is the environment variable that names the home when no flag
// does.
const HomeVariable = "KITH_HOME"

// DefaultHome returns the home used when none is named: $KITH_HOME, or .kith
// in the user's own directory. The error says that there is neither.
func DefaultHome() (string, error) {
	if home := os.Getenv(HomeVariable); home != "" {
		return filepath.Abs(home)
	}
	dir, err := os.UserHomeDir()
	if err != nil {
		return "", &usageError{fmt.Sprintf("no home is known: %v; say --home DIR or set %s", err, HomeVariable)}
	}
	return filepath.Join(dir, ".kith"), nil
}

// homeFlag returns " --home HOME" when home is not the default one, for
// commands that people are told to run.
func homeFlag(home string) string {
	if def, err := DefaultHome(); err == nil && def == home {
		return ""
	}
	return " --home " + ShellQuote(home)
}
