# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The habits of make, handed on to ./run, which prepares the machine and calls the tools.
.PHONY: help check test demo clean

help check test demo:
	@./run $@

clean:
	@./run demo clean
