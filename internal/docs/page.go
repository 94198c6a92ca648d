package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Page is one file in Markdown.
type Page struct {
	// Path from the root of the repository, with slashes.
	Path   string
	Blocks []Block
	// prose are the lines outside of blocks; those of blocks are empty.
	prose []string
}

// Block is a fenced block of code.
type Block struct {
	// Page is the path of the page, Line where the block's first line is.
	Page string
	Line int
	// Language is the first word behind the fence, Words are those that follow.
	Language string
	Words    []string
	Text     string
}

// Span is something on a line of a page.
type Span struct {
	Line int
	Text string
}

// Is says whether the word stands behind the language.
func (b Block) Is(word string) bool { return slices.Contains(b.Words, word) }

// Where renders the place as "docs/bgp.md:12".
func (b Block) Where() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// Pages reads the pages of a repository: those in its root and all below docs.
func Pages(root string) ([]*Page, error) {
	paths, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var pages []*Page
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return nil, err
		}
		page, err := Parse(filepath.ToSlash(name), string(content))
		if err != nil {
			return nil, err
		}
		pages = append(pages, page)
	}
	return pages, nil
}

const fence = "```"

// Parse reads a page from its text.
func Parse(path, text string) (*Page, error) {
	p := &Page{Path: path}
	var open *Block
	var indent string
	for i, line := range strings.Split(text, "\n") {
		bare := strings.TrimLeft(line, " ")
		fenced := strings.HasPrefix(bare, fence)
		switch {
		case fenced && open == nil:
			words := strings.Fields(strings.TrimPrefix(bare, fence))
			open = &Block{Page: path, Line: i + 2}
			if len(words) > 0 {
				open.Language, open.Words = words[0], words[1:]
			}
			indent = line[:len(line)-len(bare)]
		case fenced:
			p.Blocks = append(p.Blocks, *open)
			open = nil
		case open != nil:
			open.Text += strings.TrimPrefix(line, indent) + "\n"
		}
		if fenced || open != nil {
			line = ""
		}
		p.prose = append(p.prose, line)
	}
	if open != nil {
		return nil, fmt.Errorf("%s: the block has no end", open.Where())
	}
	return p, nil
}

var (
	codeSpan = regexp.MustCompile("`+([^`]+)`+")
	link     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
)

// Code returns what stands between backticks in the prose.
func (p *Page) Code() []Span { return p.find(codeSpan, func(line string) string { return line }) }

// Links returns the targets of the links in the prose.
func (p *Page) Links() []Span {
	return p.find(link, func(line string) string { return codeSpan.ReplaceAllString(line, "") })
}

func (p *Page) find(what *regexp.Regexp, prepare func(string) string) []Span {
	var spans []Span
	for i, line := range p.prose {
		for _, match := range what.FindAllStringSubmatch(prepare(line), -1) {
			spans = append(spans, Span{Line: i + 1, Text: match[1]})
		}
	}
	return spans
}

// Anchors returns what links can name on the page: its headings, as GitHub makes
// anchors of them.
func (p *Page) Anchors() []string {
	var anchors []string
	for _, line := range p.prose {
		title := strings.TrimLeft(line, "#")
		if title == line || !strings.HasPrefix(title, " ") {
			continue
		}
		base, n := anchorOf(title), 0
		anchor := base
		for slices.Contains(anchors, anchor) {
			n++
			anchor = fmt.Sprintf("%s-%d", base, n)
		}
		anchors = append(anchors, anchor)
	}
	return anchors
}

var (
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	linkedText  = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

func anchorOf(title string) string {
	title = linkedText.ReplaceAllString(strings.TrimSpace(title), "$1")
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
}

// Commands returns the commands of a block, of several lines where these end with a
// backslash. In a block of the language console they begin with "$ ".
func (b Block) Commands() []string {
	var commands []string
	more := false
	for line := range strings.SplitSeq(b.Text, "\n") {
		command, prompted := strings.CutPrefix(line, "$ ")
		if !more && (b.Language == "console" && !prompted || strings.TrimSpace(command) == "" || strings.HasPrefix(command, "#")) {
			continue
		}
		if more {
			commands[len(commands)-1] += "\n" + command
		} else {
			commands = append(commands, command)
		}
		more = strings.HasSuffix(command, `\`)
	}
	return commands
}
