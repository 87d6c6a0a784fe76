# Shortcuts for the commands in README.md, which says what they do.
.PHONY: run test ci full

run:
	bash -c "$$(grep -m 1 'cosmos-eval run$$' README.md)"

test:
	bash -c "$$(grep -m 1 -e '-m pytest$$' README.md)"

ci:
	.ci/run

full:
	.ci/full
