package address

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MaxLength is the longest input in bytes that anything here parses.
const MaxLength = 4096

// maxPart is the longest part between two slashes of a multiaddr: a hostname's 253; peer IDs have 46 to 80 characters.
// Base58 takes quadratic time: one "peer ID" of MaxLength costs 60 ms.
const maxPart = 253

// maxParts is how many parts between slashes a multiaddr has at most. The longest that can be dialled, of a relay behind
// WebTransport with 10 certificate hashes (two are usual), has 31. Each costs the multiaddr library far more memory than its bytes.
const maxParts = 32

// maxPath leaves room in MaxLength for the longest protocol, ID, host and port.
const maxPath = 3072

// checkText refuses what no address holds: it bounds all later work.
func checkText(s string) error {
	if s == "" {
		return errors.New("empty")
	}
	if len(s) > MaxLength {
		return fmt.Errorf("%d bytes long, at most %d are allowed", len(s), MaxLength)
	}
	return checkPrintable(s)
}

func checkPrintable(s string) error {
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ':
			return fmt.Errorf("space at position %d", i+1)
		case c < 0x20 || c == 0x7f:
			return fmt.Errorf("control character %#02x at position %d", c, i+1)
		case c > 0x7f:
			return fmt.Errorf("non-ASCII character at position %d (a hostname in another script is written xn--...)", i+1)
		}
	}
	return nil
}

// parseHost returns the canonical form of an IP literal (without brackets) or hostname.
func parseHost(s string) (host string, isIP bool, err error) {
	if s == "" {
		return "", false, errors.New("host is empty")
	}
	if strings.Contains(s, "%") {
		return "", false, fmt.Errorf("host %q has a zone, which means something on one machine only", clip(s))
	}
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Unmap().String(), true, nil
	}
	if strings.Contains(s, ":") {
		return "", false, fmt.Errorf("host %q is not an IPv6 address", clip(s))
	}
	name := strings.TrimSuffix(strings.ToLower(s), ".")
	if len(name) > 253 {
		return "", false, fmt.Errorf("hostname has %d characters, at most 253 are allowed", len(name))
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" {
			return "", false, fmt.Errorf("hostname %q has an empty part between dots", s)
		}
		if len(label) > 63 {
			return "", false, fmt.Errorf("hostname %q has a part of %d characters, at most 63 are allowed", s, len(label))
		}
		for _, c := range label {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return "", false, fmt.Errorf("hostname %q has %q in it", s, c)
			}
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return "", false, fmt.Errorf("hostname %q has a part that begins or ends with '-'", s)
		}
	}
	// No top-level domain is a number: this is a damaged IPv4 address, which resolvers read in surprising ways.
	if last := labels[len(labels)-1]; isNumber(last) {
		return "", false, fmt.Errorf("host %q is not an IPv4 address", s)
	}
	return name, false, nil
}

func isNumber(s string) bool {
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// parsePort reads a decimal port, 0 included.
func parsePort(s string) (uint16, error) {
	if s == "" {
		return 0, errors.New("port is empty")
	}
	if strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("port %q is not a number", clip(s))
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || len(s) > 5 {
		return 0, fmt.Errorf("port %s is not between 1 and 65535", clip(s))
	}
	return uint16(n), nil
}

// splitHostPort splits host:port, [v6]:port, host and [v6]. hasPort tells whether a port was written.
func splitHostPort(s string) (host, port string, hasPort bool, err error) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", false, fmt.Errorf("%q lacks the closing ]", clip(s))
		}
		host = s[1:end]
		if !strings.Contains(host, ":") {
			return "", "", false, fmt.Errorf("%q: only IPv6 addresses stand in brackets", clip(s))
		}
		rest := s[end+1:]
		if rest == "" {
			return host, "", false, nil
		}
		port, ok := strings.CutPrefix(rest, ":")
		if !ok {
			return "", "", false, fmt.Errorf("%q after ] is not a port", clip(rest))
		}
		return host, port, true, nil
	}
	host, port, hasPort = strings.Cut(s, ":")
	if strings.Contains(port, ":") {
		return "", "", false, fmt.Errorf("%q has more than one colon; an IPv6 address stands in brackets: [::1]:4001", clip(s))
	}
	return host, port, hasPort, nil
}

// joinHostPort is the inverse of splitHostPort; port 0 is left out.
func joinHostPort(host string, port uint16) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == 0 {
		return host
	}
	return host + ":" + strconv.Itoa(int(port))
}
