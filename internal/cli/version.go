package cli

// Version is what this program is.
type Version struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (v Version) text(p *Printer) {
	p.printf("kubectl-berth %s (%s, %s)\n", v.Version, v.Go, v.Platform)
}
