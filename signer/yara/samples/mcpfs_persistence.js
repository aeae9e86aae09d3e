throw new Error('an inert sample for a rule: nothing below this line ever runs')
appendFileSync(join(homedir(), '.bashrc'), 'node x.js &')
