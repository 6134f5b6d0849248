package thirdparty

import (
	"bytes"
	"runtime"
	"strings"
	"sync"
	"time"
)

// perPackage is the CPU time that one package costs to compile, its share of the linking included, on a slow server core.
// Kubernetes' 3,100 packages took 14 CPU minutes there.
const perPackage = 280 * time.Millisecond

// progress reads what `go build -v` prints, a line a compiled package, and logs from time to time how far it is.
// Packages that Go's build cache already holds are not printed, so it may end long before its total.
type progress struct {
	what  string
	total int
	log   func(format string, args ...any)

	mu       sync.Mutex
	began    time.Time
	done     int
	rest     []byte
	others   []string // lines that name no package: errors
	stopping chan struct{}
	stopped  chan struct{}
}

func (p *progress) start() {
	guess := max(time.Minute, (perPackage * time.Duration(p.total) / time.Duration(runtime.NumCPU())).Round(time.Minute))
	p.log("%s: building %d packages; the first time this takes about %.0f minutes", p.what, p.total, guess.Minutes())
	p.began, p.stopping, p.stopped = time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(p.stopped)
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-p.stopping:
				return
			case <-tick.C:
				p.report()
			}
		}
	}()
}

func (p *progress) stop() {
	close(p.stopping)
	<-p.stopped
}

func (p *progress) report() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log("%s: compiled %d of at most %d packages, %s", p.what, p.done, p.total, time.Since(p.began).Round(time.Second))
}

// Write takes the compiler's output. It never fails.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, b...)
	for {
		line, rest, found := bytes.Cut(p.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		p.rest = rest
		if text := string(line); strings.ContainsAny(text, " :#") {
			p.others = append(p.others, text)
		} else {
			p.done++
		}
	}
}

// messages is what the compiler printed beside the names of packages, its last 40 lines.
func (p *progress) messages() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.others[max(0, len(p.others)-40):], "\n")
}
