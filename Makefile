# make demo: the main job on the built-in network.  make test: checks and tests.
# Both make .venv on a fresh machine and leave it alone when nothing they depend on has changed.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
# where CPU builds of torch are that the usual index does not have
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test check clean

# one thread: on so small a network more threads wait for each other longer than they work
demo: .venv/demo.stamp
	rm -rf runs/demo
	OMP_NUM_THREADS=1 $(BIN)/allot compress digits-resnet --budget size=12% \
		--budget latency=60% --max-drop 2 --out runs/demo

test: check
	$(BIN)/python -m pytest

check: .venv/test.stamp
	scripts/check

# the CPU build first: the usual index has one with gigabytes of GPU libraries for Linux
.venv/torch.stamp: constraints.txt
	@echo "installing PyTorch and the runtimes into .venv (about 1.5 GB)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) torch==$(TORCH)+cpu || $(INSTALL) --extra-index-url $(TORCH_INDEX) torch==$(TORCH)
	touch $@

.venv/demo.stamp: .venv/torch.stamp pyproject.toml
	$(INSTALL) -e '.[cpu]'
	touch $@

.venv/test.stamp: .venv/demo.stamp
	$(INSTALL) -e '.[cpu,test,dev]'
	touch $@

clean:
	rm -rf .venv runs
