package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/dispatch/gossip"
	"github.com/pelletier/go-toml/v2"
)

const (
	// ConfigFile is the name of the configuration file in a home.
	ConfigFile = "config.toml"

	// maxConfig bounds what is read of a configuration file, in bytes.
	maxConfig = 1 << 20
)

// Config is what a node can be told in config.toml. Each field is one key of
// the file; [Keys] documents them. The zero value is not the default: start
// from [DefaultConfig].
type Config struct {
	Listen    []string      `toml:"listen"`
	LocalOnly bool          `toml:"local_only"`
	MDNS      bool          `toml:"mdns"`
	Network   string        `toml:"network"`
	Moniker   string        `toml:"moniker"`
	MaxPeers  uint16        `toml:"max_peers"`
	MaxOut    uint16        `toml:"max_outgoing"`
	Peers     []string      `toml:"persistent_peers"`
	Bootstrap []string      `toml:"bootstrap"`
	DNSSeeds  []string      `toml:"dns_seeds"`
	DHT       kith.DHT      `toml:"dht"`
	PEX       bool          `toml:"pex"`
	Topics    gossip.Preset `toml:"topics"`
	TopicPeer []string      `toml:"topic_peers"`
	DNSServer string        `toml:"dns_server"`
	Wait      time.Duration `toml:"wait"`
	LogLevel  slog.Level    `toml:"log_level"`
	LogFormat string        `toml:"log_format"`
}

// DefaultConfig returns what holds for a home without a config.toml.
func DefaultConfig() Config {
	return Config{Network: kith.DefaultNetwork, MaxPeers: 64, PEX: true, Topics: gossip.Open, MDNS: true, Wait: 10 * time.Second, LogLevel: slog.LevelInfo, LogFormat: "text"}
}

// ConfigError lists everything that is wrong in one configuration file. It
// matches [kith.ErrUsage].
type ConfigError struct {
	// Path is the file.
	Path string
	// Faults has one entry a fault, in the order of the file, each naming its
	// line and key.
	Faults []string
}

// Error returns all faults on one line.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s cannot be used: %s; correct the file and start again", e.Path, strings.Join(e.Faults, "; "))
}

// Is reports whether target is [kith.ErrUsage].
func (e *ConfigError) Is(target error) bool { return target == kith.ErrUsage }

// LoadConfig reads home/config.toml over the defaults. A missing file is no
// error. A file that cannot be parsed, that has an unknown key or a value that
// cannot be used gives a [*ConfigError] with every fault found, and the file is
// then not used at all.
func LoadConfig(home string) (Config, error) {
	path := filepath.Join(home, ConfigFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return DefaultConfig(), nil
	}
	if err != nil {
		return Config{}, unreadable(home, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, unreadable(home, err)
	}
	c, faults := parseConfig(data)
	if len(faults) > 0 {
		return Config{}, &ConfigError{Path: path, Faults: faults}
	}
	return c, nil
}

// unreadable says what to do about a configuration file that cannot be read.
func unreadable(home string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot read the configuration: %w; if the home %s is another user's, run this as that user or choose another with --home; if it is yours, make the file readable", err, home)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("cannot read the configuration: %w; a home is a directory: choose another with --home", err)
	}
	return fmt.Errorf("cannot read the configuration: %w; make it a readable file or remove it", err)
}

// parseConfig decodes a file over the defaults and returns all its faults.
func parseConfig(data []byte) (Config, []string) {
	c := DefaultConfig()
	if len(data) > maxConfig {
		return c, []string{fmt.Sprintf("it is larger than %d bytes", maxConfig)}
	}
	var values map[string]any
	if err := toml.Unmarshal(data, &values); err != nil {
		var de *toml.DecodeError
		if errors.As(err, &de) {
			line, column := de.Position()
			return c, []string{fmt.Sprintf("line %d, column %d: %s", line, column, strings.TrimPrefix(de.Error(), "toml: "))}
		}
		return c, []string{strings.TrimPrefix(err.Error(), "toml: ")}
	}
	lines := keyLines(data)
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := lines[a] - lines[b]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	var faults []string
	for _, name := range names {
		key := findKey(name)
		if _, table := values[name].(map[string]any); table && key == nil {
			faults = append(faults, fmt.Sprintf("line %d: there are no sections; write the keys of [%s] without it, at the top of the file", lines[name], name))
			continue
		}
		if key == nil {
			faults = append(faults, fmt.Sprintf("line %d: unknown key %q, the closest known key is %q", lines[name], name, closestKey(name)))
			continue
		}
		if err := key.set(&c, values[name]); err != nil {
			faults = append(faults, fmt.Sprintf("line %d: %s: %v", lines[name], name, err))
		}
	}
	return c, faults
}

// keyLines returns the line of each top-level key. Decoding strictly into a
// struct without fields makes the decoder report every key with its position.
func keyLines(data []byte) map[string]int {
	lines := make(map[string]int)
	var none struct{}
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&none)
	var missing *toml.StrictMissingError
	if !errors.As(err, &missing) {
		return lines
	}
	for _, e := range missing.Errors {
		key := e.Key()
		if len(key) == 0 {
			continue
		}
		line, _ := e.Position()
		if old, ok := lines[key[0]]; !ok || line < old {
			lines[key[0]] = line
		}
	}
	return lines
}

// closestKey returns the first known key that has name in it or, when none
// does, the one with the fewest edits to name.
func closestKey(name string) string {
	best, least := "", 0
	for _, k := range keys {
		if name != "" && strings.Contains(k.Name, name) {
			return k.Name
		}
		if d := editDistance(name, k.Name); best == "" || d < least {
			best, least = k.Name, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance in bytes, by the two-row form of
// Wagner and Fischer. Only the first 64 bytes of each word count.
func editDistance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	prev, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(prev[j+1]+1, row[j]+1, prev[j]+cost)
		}
		prev, row = row, prev
	}
	return prev[len(b)]
}

// writeTemplate writes the commented configuration to home at the first start.
// A file that is there, of whatever content, is never touched.
func writeTemplate(home string) error {
	path := filepath.Join(home, ConfigFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(ConfigTemplate())
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}
