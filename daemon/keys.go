package daemon

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/multiformats/go-multiaddr"
)

// Key documents one key of config.toml.
type Key struct {
	// Name is the key as written in the file.
	Name string
	// Type is what it takes, in words.
	Type string
	// Default is its default as written in the file.
	Default string
	// Doc says what it does, in sentences.
	Doc string

	set func(*Config, any) error
}

// keys is the one list that the parser, the template and the documentation are
// made from.
var keys = []Key{
	{
		Name: "listen", Type: "array of multiaddrs", Default: "[]",
		Doc: "Where the node listens for peers, such as \"/ip4/0.0.0.0/tcp/4001\" or \"/ip4/0.0.0.0/udp/4001/quic-v1\". " +
			"When empty the node listens on TCP and QUIC on all interfaces, on a free port that is picked at the first start and kept.",
		set: func(c *Config, v any) error {
			list, err := stringList(v)
			if err != nil {
				return err
			}
			for _, s := range list {
				if _, err := multiaddr.NewMultiaddr(s); err != nil {
					return fmt.Errorf("%q is not a multiaddr: %w", s, err)
				}
			}
			c.Listen = list
			return nil
		},
	},
	{
		Name: "local_only", Type: "boolean", Default: "false",
		Doc: "Listen on 127.0.0.1 only (when listen is empty) and do not look for peers on the local network.",
		set: func(c *Config, v any) error { return setBool(&c.LocalOnly, v) },
	},
	{
		Name: "mdns", Type: "boolean", Default: "true",
		Doc: "Look for peers on the local network, and let them find this node, by multicast DNS.",
		set: func(c *Config, v any) error { return setBool(&c.MDNS, v) },
	},
	{
		Name: "dns_server", Type: "host:port", Default: `""`,
		Doc: "The DNS server that names in addresses are looked up at. When empty, the system's.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			if s != "" {
				host, port, err := net.SplitHostPort(s)
				if err != nil || host == "" {
					return fmt.Errorf("%q is not host:port, such as \"127.0.0.1:53\"", s)
				}
				if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
					return fmt.Errorf("%q has no port between 1 and 65535", s)
				}
			}
			c.DNSServer = s
			return nil
		},
	},
	{
		Name: "wait", Type: "duration", Default: `"10s"`,
		Doc: "How long a connection to a forwarded port waits while its peer is being redialled, unless `kith connect --wait` says otherwise. " +
			"At least 1ms, at most 1h.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			d, err := time.ParseDuration(s)
			if err != nil {
				return fmt.Errorf("%q is not a duration, such as \"10s\" or \"2m\"", s)
			}
			if d < time.Millisecond || d > time.Hour {
				return fmt.Errorf("%s is not between 1ms and 1h", d)
			}
			c.Wait = d
			return nil
		},
	},
	{
		Name: "log_level", Type: "debug, info, warn or error", Default: `"info"`,
		Doc: "The least important messages that are logged.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			c.LogLevel, err = ParseLogLevel(s)
			return err
		},
	},
	{
		Name: "log_format", Type: "text or json", Default: `"text"`,
		Doc: "How log messages are written to standard error: text has key=value pairs, json one object a line.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			if s != "text" && s != "json" {
				return fmt.Errorf("%q is neither \"text\" nor \"json\"", s)
			}
			c.LogFormat = s
			return nil
		},
	},
}

// Keys returns the documentation of every key of config.toml, in the order of
// the template.
func Keys() []Key { return slices.Clone(keys) }

// ParseLogLevel reads a log level: debug, info, warn or error.
func ParseLogLevel(s string) (slog.Level, error) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is not one of debug, info, warn, error", s)
}

// ConfigTemplate returns a config.toml that documents every key and sets none.
func ConfigTemplate() string {
	var b strings.Builder
	b.WriteString("# Configuration of a kith node, read when it starts.\n" +
		"# Every key is shown with its default; remove the \"#\" before a key to set it.\n" +
		"# Flags of `kith up` go before this file.\n")
	for _, k := range keys {
		b.WriteString("\n")
		for _, line := range wrap(k.Doc+" ("+k.Type+")", 76) {
			b.WriteString("# " + line + "\n")
		}
		fmt.Fprintf(&b, "#%s = %s\n", k.Name, k.Default)
	}
	return b.String()
}

// ConfigTable returns the documentation of every key as a Markdown table, with
// a newline after its last row.
func ConfigTable() string {
	var b strings.Builder
	b.WriteString("| Key | Type | Default | Meaning |\n| --- | --- | --- | --- |\n")
	for _, k := range keys {
		fmt.Fprintf(&b, "| `%s` | %s | `%s` | %s |\n", k.Name, k.Type, k.Default, strings.ReplaceAll(k.Doc, "|", `\|`))
	}
	return b.String()
}

func findKey(name string) *Key {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
	if i < 0 {
		return nil
	}
	return &keys[i]
}

func text(v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("want text in quotes, not %s", tomlType(v))
	}
	return s, nil
}

func setBool(to *bool, v any) error {
	b, ok := v.(bool)
	if !ok {
		return fmt.Errorf("want true or false, not %s", tomlType(v))
	}
	*to = b
	return nil
}

func stringList(v any) ([]string, error) {
	items, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("want an array of texts, not %s", tomlType(v))
	}
	list := make([]string, 0, len(items))
	for _, item := range items {
		s, ok := item.(string)
		if !ok {
			return nil, fmt.Errorf("want only texts in the array, not %s", tomlType(item))
		}
		list = append(list, s)
	}
	return list, nil
}

// tomlType names a decoded value's type as the file's author knows it.
func tomlType(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case bool:
		return "a boolean"
	case int64, float64:
		return "a number"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

// wrap breaks text at spaces into lines of at most width bytes, where words
// allow it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
