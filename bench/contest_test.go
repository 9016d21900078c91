package main

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
)

// fixed is a side that always measures the same, and notes that it did.
func fixed(name string, v float64, turns *[]string) side {
	return side{name, func(context.Context) (float64, error) {
		*turns = append(*turns, name)
		return v, nil
	}}
}

func TestContest(t *testing.T) {
	var turns []string
	made, ended := 0, 0
	c := contest{
		lines: []line{
			{ours: "a", theirs: "c", bar: 1},
			{ours: "b", theirs: "c", bar: 5},
			{ours: "b", theirs: "a", bar: 1, atMost: true},
			{ours: "b", theirs: "c"},
		},
		sides: func(_ context.Context, s *scope) ([]side, error) {
			made++
			s.add(func() error { ended++; return nil })
			return []side{fixed("a", 4, &turns), fixed("b", 6, &turns), fixed("c", 2, &turns)}, nil
		},
		every: 2,
		rates: runtime.GOOS == "linux",
	}
	results, err := c.measure(t.Context(), settings{pairs: 3, most: 9}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "c"}; made != 2 || ended != 2 || len(turns) != 15 || !slices.Equal(turns[:3], want) || !slices.Equal(turns[3:6], want) {
		t.Errorf("made %d times, ended %d, turns %v", made, ended, turns)
	}
	for i, want := range []struct {
		ratio float64
		met   bool
	}{{2, true}, {3, false}, {1.5, false}, {3, true}} {
		if r := results[i]; r.Ratio != want.ratio || r.Met != want.met || len(r.Pairs) != 3 || (len(r.Notes) > 0) != (c.rates && i == 0) {
			t.Errorf("line %d: %+v", i, r)
		}
	}
}

// A line that is close to its bar makes all of them take more turns.
func TestContestGoesOn(t *testing.T) {
	var turns []string
	c := contest{
		lines: []line{{ours: "a", theirs: "b", bar: 1}, {ours: "b", theirs: "a", bar: 100}},
		sides: func(context.Context, *scope) ([]side, error) {
			return []side{fixed("a", 102, &turns), fixed("b", 100, &turns)}, nil
		},
	}
	results, err := c.measure(t.Context(), settings{pairs: 3, most: 9}, func() {})
	if err != nil || len(results[0].Pairs) != 9 || len(results[1].Pairs) != 9 {
		t.Errorf("%+v, %v", results, err)
	}
}

func TestContestFaults(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		sides []side
		line  line
		err   error // of making the sides
	}{
		"no side":       {[]side{fixed("a", 1, new([]string))}, line{ours: "a", theirs: "b"}, nil},
		"nothing":       {[]side{fixed("a", 0, new([]string))}, line{ours: "a", theirs: "a"}, nil},
		"a broken side": {[]side{{"a", func(context.Context) (float64, error) { return 1, broken }}}, line{ours: "a", theirs: "a"}, nil},
		"broken sides":  {nil, line{}, broken},
	} {
		t.Run(name, func(t *testing.T) {
			ended := false
			_, err := contest{lines: []line{c.line}, sides: func(_ context.Context, s *scope) ([]side, error) {
				s.add(func() error { ended = true; return nil })
				return c.sides, c.err
			}}.measure(t.Context(), settings{pairs: 2}, func() {})
			if err == nil || !ended {
				t.Errorf("error %v, ended: %v", err, ended)
			}
		})
	}
}

func TestScope(t *testing.T) {
	var s scope
	var order []int
	for i := range 3 {
		s.add(func() error {
			order = append(order, i)
			if i == 1 {
				return errors.New("one")
			}
			return nil
		})
	}
	if err := s.end(); err == nil || !slices.Equal(order, []int{2, 1, 0}) {
		t.Errorf("ended %v, %v", order, err)
	}
	if err := s.end(); err != nil || len(order) != 3 {
		t.Errorf("ended again: %v, %v", order, err)
	}
}
