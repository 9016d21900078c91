package connmgr

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// A task is a goroutine that Run waits for, or a call of another's goroutine
// that it must wait for, and says what the task is doing. begin and finish
// keep the list of them.
type task struct {
	of     fmt.Stringer  // whose
	stages atomic.Uint32 // bits of stage: which callbacks it is in
}

type stage uint32

const (
	stageNext stage = 1 << iota
	stageDial
	stageAccept
	stageEstablish
	stageVictim
	stageRefused
	stageAdmit
	stageConnected
	stageClose
	stageEnded
	stageDisconnected
	stageStop
)

var stageNames = []string{
	"Policy.Next", "Dial", "Accept", "Establish", "Policy.Victim", "Refused", "Admit", "Connected",
	"the connection's Close", "Policy.Ended", "Disconnected", "Stop",
}

func (t *task) enter(s stage) { t.stages.Or(uint32(s)) }
func (t *task) leave(s stage) { t.stages.And(^uint32(s)) }

// String says whose task it is and in which callbacks, such as "connection 7
// (inbound, 192.0.2.1) in Connected".
func (t *task) String() string {
	var in []string
	bits := t.stages.Load()
	for i, name := range stageNames {
		if bits&(1<<i) != 0 {
			in = append(in, name)
		}
	}
	if in == nil {
		return t.of.String()
	}
	return t.of.String() + " in " + strings.Join(in, " and ")
}

// name is a fmt.Stringer of a fixed text.
type name string

func (n name) String() string { return string(n) }

// begin lists a task; the engine's lock is held.
func (e *Engine[A, C]) begin(t *task) { e.tasks[t] = struct{}{} }

// finish strikes it off. When it was the last of a stopping engine, Run goes on.
func (e *Engine[A, C]) finish(t *task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tasks, t)
	if e.phase == phaseStopping && len(e.tasks) == 0 {
		close(e.idle)
	}
}

// spawn runs f on a goroutine of its own, as a task.
func (e *Engine[A, C]) spawn(t *task, f func()) {
	e.mu.Lock()
	e.begin(t)
	e.mu.Unlock()
	e.run(t, f)
}

// run is spawn for a task that was begun.
func (e *Engine[A, C]) run(t *task, f func()) {
	go func() {
		defer e.finish(t)
		f()
	}()
}

const (
	// waitNamed is how long Run waits for callbacks before it says which; the
	// pauses then double, up to waitNamedMost.
	waitNamed     = 5 * time.Second
	waitNamedMost = 5 * time.Minute
	// waitingNamed is how many are named at a time.
	waitingNamed = 10
)

// await returns when no task is left.
func (e *Engine[A, C]) await() {
	start := time.Now()
	for pause := waitNamed; ; pause = min(2*pause, waitNamedMost) {
		timer := time.NewTimer(pause)
		select {
		case <-e.idle:
			timer.Stop()
			return
		case <-timer.C:
		}
		waiting := e.waiting()
		for i, what := range waiting {
			if i == waitingNamed {
				e.cfg.Logger.Warn("connmgr: Run waits for more", "callbacks", len(waiting)-i)
				break
			}
			e.cfg.Logger.Warn("connmgr: Run waits for a callback that does not return", "callback", what, "for", time.Since(start).Round(time.Second))
		}
	}
}

// waiting says what the tasks are, in no callback or in which, sorted.
func (e *Engine[A, C]) waiting() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []string
	for t := range e.tasks {
		if t.of != nil {
			all = append(all, t.String())
		}
	}
	slices.Sort(all)
	return all
}
